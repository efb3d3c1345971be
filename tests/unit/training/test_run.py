"""What a run is compared with: the baseline of its settings, which a resumed run can do without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hvd_r2n2.comm import Alone, Communicator
from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.telemetry.baseline import Baseline, settings_of, write_baseline
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.run import _find_baseline
from tests.thread_ranks import on_ranks

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings with a baseline of one thread a device."""
    path = tmp_path / "baseline.json"
    config = load_config(None, ["train.max_views=1", f"log.baseline={path}"])
    measured = Baseline(
        device="cpu",
        threads=1,
        accumulation=1,
        times_s={1: (2.0,)},
        settings=settings_of(config),
        hardware=find_hardware(),
        versions=find_versions(),
        trials={},
        date="2026-01-02T03:04:05+00:00",
        command="python -m hvd_r2n2.benchmark baseline",
    )
    write_baseline(path, measured)
    return config


def test_resumed_ranks_that_all_fit_the_baseline_are_compared_with_it(config: Config) -> None:
    said: list[str] = []

    def find(communicator: Communicator) -> Baseline | None:
        return _find_baseline(config, Placement((CPU,), 1), communicator, said.append, is_resumed=True)

    assert [found and found.expected_s(1) for found in on_ranks(2, find)] == [2.0, 2.0]
    assert not said


def test_a_resumed_run_of_which_one_rank_does_not_fit_goes_on_without_the_comparison(config: Config) -> None:
    said: list[list[str]] = [[], []]

    def find(communicator: Communicator) -> Baseline | None:
        rank = communicator.rank
        return _find_baseline(config, Placement((CPU,), 1 + rank), communicator, said[rank].append, is_resumed=True)

    assert on_ranks(2, find) == [None, None]
    assert said[0] == said[1]
    assert said[0][0].startswith("warning: log.baseline: ")
    assert "threads of a device: 1 there, 2 here" in said[0][0]
    assert said[0][0].endswith("; the run goes on without the comparison")


def test_a_resumed_run_goes_on_without_a_baseline_that_is_gone(config: Config, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "baseline.json").unlink()
    assert _find_baseline(config, Placement((CPU,), 1), Alone(), said.append, is_resumed=True) is None
    assert len(said) == 1
    with pytest.raises(FileNotFoundError):
        _find_baseline(config, Placement((CPU,), 1), Alone(), said.append, is_resumed=False)


def test_a_new_run_that_the_baseline_does_not_fit_is_refused_and_hears_what_to_do(config: Config) -> None:
    with pytest.raises(
        ValueError, match=r"does not fit: threads.* there, 2 here \(measure again: .*log\.baseline=null"
    ):
        _find_baseline(config, Placement((CPU,), 2), Alone(), print, is_resumed=False)
