"""Ranks times devices: whatever the strategy, the same training as one rank on one device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Launcher
from tests.short_runs import TRAIN, largest_difference, settings, weights

STEPS = 5
SHORT = {
    "train__steps": STEPS,
    "train__clip_norm": 0.5,
    "train__batch_size": 6,
    "model__width": 1 / 16,
    "optimizer__schedule": "constant",  # a rate that does not depend on the number of steps, so runs may end before
    "evaluation__every_steps": 100,
}
STRATEGIES: dict[str, dict[str, object]] = {
    "pipeline": {"split__cut": "[decoder.block7]", "split__micro_batches": 3, "split__view_chunks": 2},
    "kernel": {"split__micro_batches": 2},
    "spatial": {"split__micro_batches": 1},
}


def optimizer_state(run: Path) -> dict[str, torch.Tensor]:
    """Return the optimizer's state of a run's last checkpoint."""
    return load_file(run / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> Path:
    """A run of one rank on one device."""
    run = tmp_path_factory.mktemp("alone") / "run"
    done = python(*TRAIN, *settings(tiny_data, **SHORT), "--out", run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_after_some_steps_are_those_of_one_device(
    strategy: str, ranks: int, alone: Path, tmp_path: Path, tiny_data: Path, mpirun: Launcher, python: Launcher
) -> None:
    split = {"split__strategy": strategy, **STRATEGIES[strategy], "log__trace_step": 2}
    arguments = (*TRAIN, *settings(tiny_data, **SHORT, **split), "--out", tmp_path / "run")
    done = python(*arguments) if ranks == 1 else mpirun(ranks, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu:0, cpu:1 (logical" in done.stdout
    events = json.loads((tmp_path / "run" / "trace-step-00000002.json").read_text())["traceEvents"]
    assert {event["tid"] for event in events if event["ph"] == "X"} == {0, 1}
    assert largest_difference(weights(tmp_path / "run", STEPS), weights(alone, STEPS)) <= 1e-12
    assert largest_difference(optimizer_state(tmp_path / "run"), optimizer_state(alone)) <= 1e-12


def test_checkpoint_is_resumed_under_every_other_strategy_and_rank_count(
    alone: Path, tmp_path: Path, tiny_data: Path, mpirun: Launcher, python: Launcher
) -> None:
    """Steps 1 to 5 in five ways, the weights those of one way."""
    run = tmp_path / "run"
    ways: list[tuple[int, dict[str, object]]] = [
        (1, {"split__strategy": "kernel"}),
        (2, {"split__strategy": "spatial"}),
        (1, {"split__strategy": "none"}),
        (2, {"split__strategy": "pipeline", **STRATEGIES["pipeline"]}),
        (1, {"split__strategy": "kernel", "split__micro_batches": 2}),
    ]
    for step, (ranks, split) in enumerate(ways, start=1):
        changed = SHORT | {"train__steps": step} | split
        config = tmp_path / "empty.yaml"
        config.write_text("{}\n")
        resume = ("--resume", "--config", config) if step > 1 else ()
        arguments = (*TRAIN, *settings(tiny_data, **changed), "--out", run, *resume)
        done = python(*arguments) if ranks == 1 else mpirun(ranks, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert largest_difference(weights(run, STEPS), weights(alone, STEPS)) <= 1e-12
    assert largest_difference(optimizer_state(run), optimizer_state(alone)) <= 1e-12
