"""What counts as a spike, and what is done about it, computed by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hvd_r2n2.config import TrainConfig
from hvd_r2n2.training.spike_guard import FEWEST, WINDOW, LossSpikeError, SpikeGuard, SpikeHistory

CALM = [1.0] * FEWEST


def guard(losses: list[float], **settings: object) -> SpikeGuard:
    made = SpikeGuard(TrainConfig(spike_factor=3.0, **settings), SpikeHistory())  # type: ignore[arg-type]
    assert all(made.admits(loss) for loss in losses)
    return made


def test_nothing_is_a_spike_without_a_factor_or_before_there_is_a_median() -> None:
    off = SpikeGuard(TrainConfig(), SpikeHistory())
    assert all(off.admits(loss) for loss in [*CALM, 1e30])
    assert off.history == SpikeHistory()
    assert guard([1.0] * (FEWEST - 1)).admits(1e30)


def test_loss_above_the_factor_times_the_median_stops() -> None:
    assert guard(CALM).admits(3.0)  # not above it
    with pytest.raises(
        LossSpikeError, match=r"the loss is 3\.001, more than train.spike_factor=3 times the median 1 of"
    ):
        guard(CALM).admits(3.001)


def test_so_many_in_a_row_are_needed() -> None:
    patient = guard(CALM, spike_steps=3)
    assert [patient.admits(9.0), patient.admits(9.0), patient.admits(1.0)] == [True] * 3
    assert [patient.admits(9.0), patient.admits(9.0)] == [True] * 2
    with pytest.raises(LossSpikeError, match=r"for 3 step\(s\) in a row"):
        patient.admits(9.0)


def test_skipped_steps_are_counted_and_a_lasting_change_becomes_the_median() -> None:
    skipping = guard(CALM, spike_action="skip")
    admitted = [skipping.admits(9.0) for _ in range(20)]
    # The median of n ones and k nines is above 3 as soon as k ≥ n, with ten ones before.
    assert admitted == [False] * 10 + [True] * 10
    assert skipping.history.skipped == 10


def test_history_through_json_gives_the_same_judgements() -> None:
    losses = [1 + (number * 7 % 11) / 3 for number in range(3 * WINDOW)]
    straight = guard([], spike_action="skip", spike_steps=2)
    resumed = guard([], spike_action="skip", spike_steps=2)
    for number, loss in enumerate(losses):
        assert straight.admits(loss * (4 if number % 13 > 10 else 1)) == resumed.admits(
            loss * (4 if number % 13 > 10 else 1)
        )
        values = json.loads(json.dumps(asdict(resumed.history)))
        history = SpikeHistory(tuple(values["losses"]), values["in_a_row"], values["skipped"])
        resumed = SpikeGuard(TrainConfig(spike_factor=3.0, spike_action="skip", spike_steps=2), history)
    assert resumed.history == straight.history
    assert len(straight.history.losses) == WINDOW
    assert straight.history.skipped > 0
