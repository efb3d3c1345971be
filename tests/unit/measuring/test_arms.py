"""Arms as plain data: which there are, their settings, and what is refused."""

from __future__ import annotations

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.arms import ArmSpec, possible_accumulations, rank_arms, split_arms

CONFIG = load_config(None, ["train.batch_size=8"])


def names(arms: tuple[ArmSpec, ...]) -> list[str]:
    return [arm.name for arm in arms]


def test_all_arms_that_go_with_the_network() -> None:
    usual = ["one-device", "bound", "naive", "pipeline", "kernel", "spatial", "ddp"]
    assert names(split_arms(CONFIG)) == usual
    alexnet = load_config(None, ["model.name=alexnet"])
    assert names(split_arms(alexnet)) == [name for name in usual if name != "spatial"]


def test_chosen_and_further_arms() -> None:
    changes = [
        ["pipeline", "split.micro_batches=4"],
        ["pipeline-8", "split.strategy=pipeline", "split.micro_batches=8"],
    ]
    arms = split_arms(CONFIG, ["one-device", "ddp"], changes)
    assert names(arms) == ["one-device", "ddp", "pipeline", "pipeline-8"]
    assert [arm.config(CONFIG).split.micro_batches for arm in arms] == [None, None, 4, 8]
    assert [arm.config(CONFIG).split.strategy for arm in arms] == ["none", "none", "pipeline", "pipeline"]


@pytest.mark.parametrize(
    ("chosen", "changes", "message"),
    [
        (["pipelin"], [], r"--arms: pipelin is not known, did you mean pipeline\? \(known: one-device, "),
        (None, [["pipeline"]], r"--arm pipeline: write NAME SECTION\.KEY=VALUE"),
        (None, [["mine", "train.steps=3"]], r"--arm mine: a new arm needs split\.strategy="),
        (None, [["kernel", "split.colour=3"]], r"arm kernel: unknown key split\.colour"),
    ],
)
def test_impossible_arms_are_refused(chosen: list[str] | None, changes: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_arms(CONFIG, chosen, changes)


def test_samples_of_a_step() -> None:
    samples = {arm.name: arm.samples(CONFIG) for arm in (*split_arms(CONFIG), *rank_arms(CONFIG))}
    assert samples == {
        **dict.fromkeys(("one-device", "naive", "pipeline", "kernel", "spatial", "ddp", "ddp-1"), 8),
        **dict.fromkeys(("horovod-2-strong", "ddp-2-strong"), 8),
        **dict.fromkeys(("bound", "horovod-2-weak", "ddp-2-weak"), 16),
    }


def test_numbers_of_micro_batches_divide_the_samples_and_the_most_come_first() -> None:
    assert possible_accumulations(24) == [8, 4, 2, 1]
    assert possible_accumulations(32) == [16, 8, 4, 2, 1]
    assert possible_accumulations(3) == [1]
