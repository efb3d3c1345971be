"""Any number of ranks, under any launcher, trains the same weights as one rank with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.training.setup import build_model
from tests.conftest import Launcher
from tests.short_runs import TRAIN, largest_difference, settings, weights


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> dict[str, Path]:
    """Runs of one rank, by optimizer."""
    runs = {}
    for optimizer in ("sgd", "adam"):
        runs[optimizer] = tmp_path_factory.mktemp("alone") / optimizer
        done = python(*TRAIN, *settings(tiny_data, optimizer__name=optimizer), "--out", runs[optimizer])
        assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize(
    ("launcher", "ranks", "optimizer", "carrier"),
    [
        ("mpirun", 2, "sgd", "MPI"),
        ("mpirun", 3, "sgd", "MPI"),
        ("mpirun", 2, "adam", "MPI"),
        ("mpirun", 3, "adam", "MPI"),
        ("horovodrun", 2, "adam", "MPI"),
        ("horovodrun --gloo", 2, "sgd", "Gloo"),
    ],
)
def test_ranks_train_the_weights_of_one(
    launcher: str,
    ranks: int,
    optimizer: str,
    carrier: str,
    alone: dict[str, Path],
    tmp_path: Path,
    tiny_data: Path,
    mpirun: Launcher,
    horovodrun: Launcher,
) -> None:
    arguments = (*TRAIN, *settings(tiny_data, optimizer__name=optimizer), "--out", tmp_path / "run")
    if launcher == "mpirun":
        done = mpirun(ranks, *arguments)
    else:
        done = horovodrun(ranks, *arguments, options=launcher.split()[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ranks} rank(s), Horovod 0.28.1 over {carrier}, cycles of 1 ms, no fusion" in done.stdout
    assert largest_difference(weights(tmp_path / "run"), weights(alone[optimizer])) <= 1e-12
    config = load_config(alone[optimizer] / "config.yaml")
    initial = dict(build_model(config.model, config.train.seed).double().state_dict())
    assert largest_difference(weights(tmp_path / "run"), initial) > 1e-4, "nothing was trained"


def test_clipping_and_micro_batches_are_of_the_whole_batch(
    alone: dict[str, Path], tmp_path: Path, tiny_data: Path, python: Launcher, mpirun: Launcher
) -> None:
    arguments = settings(tiny_data, optimizer__name="sgd", train__clip_norm=0.01)
    one = python(*TRAIN, *arguments, "--out", tmp_path / "one")
    two = mpirun(2, *TRAIN, *arguments, "--set", "train.accumulation=3", "--out", tmp_path / "two")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "two")) <= 1e-12
    assert largest_difference(weights(tmp_path / "one"), weights(alone["sgd"])) > 1e-6, "nothing was clipped"
