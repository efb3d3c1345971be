"""Any number of ranks trains the same weights as one rank with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.training.setup import build_model
from tests.conftest import Launcher
from tests.short_runs import TRAIN, largest_difference, settings, weights


@pytest.fixture(scope="module", params=["sgd", "adam"])
def one_rank(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher
) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp(f"one-rank-{request.param}") / "run"
    done = python(*TRAIN, *settings(tiny_data, optimizer__name=request.param), "--out", run)
    assert done.returncode == 0, done.stderr
    return request.param, run


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_the_weights_of_one(
    one_rank: tuple[str, Path], ranks: int, tmp_path: Path, tiny_data: Path, mpirun: Launcher
) -> None:
    optimizer, reference = one_rank
    done = mpirun(ranks, *TRAIN, *settings(tiny_data, optimizer__name=optimizer), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"{ranks} rank(s), Horovod 0.28.1 over MPI" in done.stdout
    assert largest_difference(weights(tmp_path / "run"), weights(reference)) <= 1e-12
    config = load_config(reference / "config.yaml")
    initial = dict(build_model(config.model, config.train.seed).double().state_dict())
    assert largest_difference(weights(tmp_path / "run"), initial) > 1e-4, "nothing was trained"


@pytest.mark.parametrize("options", [(), ("--gloo",)], ids=["default", "gloo"])
def test_horovodrun_trains_the_weights_of_one(
    options: tuple[str, ...], tmp_path: Path, tiny_data: Path, one_rank: tuple[str, Path], horovodrun: Launcher
) -> None:
    optimizer, reference = one_rank
    if optimizer == "sgd":
        pytest.skip("one optimizer is enough for the launchers")
    arguments = settings(tiny_data, optimizer__name=optimizer)
    done = horovodrun(2, *TRAIN, *arguments, "--out", tmp_path / "run", options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert largest_difference(weights(tmp_path / "run"), weights(reference)) <= 1e-12


def test_micro_batches_train_the_weights_of_the_whole_batch(
    tmp_path: Path, tiny_data: Path, one_rank: tuple[str, Path], mpirun: Launcher
) -> None:
    optimizer, reference = one_rank
    arguments = settings(tiny_data, optimizer__name=optimizer, train__accumulation=3)
    done = mpirun(2, *TRAIN, *arguments, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert largest_difference(weights(tmp_path / "run"), weights(reference)) <= 1e-12


def test_clipping_is_over_the_gradient_of_all_ranks(
    tmp_path: Path, tiny_data: Path, python: Launcher, mpirun: Launcher
) -> None:
    arguments = settings(tiny_data, optimizer__name="sgd", train__clip_norm=0.01)
    alone = python(*TRAIN, *arguments, "--out", tmp_path / "one")
    together = mpirun(2, *TRAIN, *arguments, "--out", tmp_path / "two")
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / "two")) <= 1e-12
