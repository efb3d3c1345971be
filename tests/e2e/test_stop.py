"""A run that a signal stops ends with its own code, keeps that step, and goes on to the same bits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hvd_r2n2.common.exit_codes import ExitCode
from hvd_r2n2.training.checkpoint import read_checkpoint
from tests.conftest import Launcher
from tests.e2e.test_resume import last_files, losses
from tests.short_runs import SIGNALLED, TRAIN, settings

STEPS = 8

STEP = ("hvd_r2n2.training.step", "TrainingStep.run")
SAVE = ("hvd_r2n2.training.checkpoint", "save_file")
CLOSE = ("hvd_r2n2.telemetry.run_log", "RunLog.close")


def arguments(data: Path, **values: object) -> list[str]:
    given = {"train__dtype": "float32", "train__steps": STEPS, "log__every_steps": 1, "log__tensorboard": "true"}
    return settings(data, **(given | {"checkpoint__every_steps": 100, "evaluation__every_steps": 4} | values))


def curve(run: Path) -> list[tuple[int, float]]:
    """Return the loss that TensorBoard shows."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def check_stopped(done: subprocess.CompletedProcess[str], run: Path, step: int) -> None:
    assert done.returncode == ExitCode.STOPPED, done.stdout + done.stderr
    assert f"stopped after step {step}, as asked (signal USR1); go on with --resume" in done.stdout
    assert read_checkpoint((run / "checkpoints" / "last").resolve()).step == step
    assert not (run / "summary.json").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    done = python(*TRAIN, *arguments(tiny_data), "--out", run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(
    ("function", "times", "more", "step"),
    [
        (STEP, "3,3", {}, 3),
        (SAVE, "1", {"checkpoint__every_steps": 2}, 3),  # while a checkpoint is written: the next step is the last one
        (CLOSE, "1", {}, None),  # when all is done
    ],
)
def test_stopped_run_goes_on_to_the_same_bits(
    function: tuple[str, str],
    times: str,
    more: dict[str, object],
    step: int | None,
    whole: Path,
    tiny_data: Path,
    tmp_path: Path,
    python: Launcher,
) -> None:
    run = tmp_path / "run"
    done = python("-c", SIGNALLED, "USR1", *function, "0", times, *arguments(tiny_data, **more), "--out", run)
    if step is None:
        assert done.returncode == 0, done.stderr
    else:
        check_stopped(done, run, step)
        resumed = python(*TRAIN, "--resume", "--out", run)
        assert resumed.returncode == 0, resumed.stderr
        assert f"going on from step-{step:08d}" in resumed.stdout
    assert last_files(run) == last_files(whole)
    assert losses(run) == losses(whole)
    assert curve(run) == curve(whole)


def test_signal_to_one_rank_stops_all_and_mpirun_passes_the_code_on(
    tiny_data: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = mpirun(2, *TRAIN, *arguments(tiny_data), "--out", whole)
    assert done.returncode == 0, done.stderr
    stopped = mpirun(2, "-c", SIGNALLED, "USR1", *STEP, "1", "3", *arguments(tiny_data), "--out", run)
    check_stopped(stopped, run, 3)
    resumed = mpirun(2, *TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert last_files(run) == last_files(whole)
    assert (losses(run), curve(run)) == (losses(whole), curve(whole))


def test_horovodrun_makes_one_of_the_code(tiny_data: Path, tmp_path: Path, horovodrun: Launcher) -> None:
    run = tmp_path / "run"
    words = ("-c", SIGNALLED, "USR1", *STEP, "1", "3", *arguments(tiny_data), "--out", run)
    done = horovodrun(2, *words, options=("--gloo",))
    assert done.returncode == ExitCode.FAILED, done.stdout + done.stderr
    assert "stopped after step 3, as asked" in done.stdout
    assert read_checkpoint((run / "checkpoints" / "last").resolve()).step == 3


def test_stop_between_two_lines_of_the_log_loses_no_loss(
    whole: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    words = arguments(tiny_data, log__every_steps=4, checkpoint__signal="TERM")
    done = python("-c", SIGNALLED, "TERM", *STEP, "0", "2", *words, "--out", run)
    assert done.returncode == ExitCode.STOPPED, done.stderr
    assert "stopped after step 2, as asked (signal TERM)" in done.stdout
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    each = dict(losses(whole))
    means = [(2, (each[1] + each[2]) / 2), (4, (each[3] + each[4]) / 2), (8, sum(each[n] for n in range(5, 9)) / 4)]
    assert losses(run) == [(step, pytest.approx(mean, rel=1e-12)) for step, mean in means]


def test_elastic_launch_is_refused(tiny_data: Path, tmp_path: Path, horovodrun: Launcher) -> None:
    hosts = tmp_path / "hosts.sh"
    hosts.write_text("#!/bin/sh\necho localhost:1\n")
    hosts.chmod(0o755)
    options = ("--min-np", "1", "--max-np", "2", "--host-discovery-script", hosts, "--network-interface", "lo")
    done = horovodrun(1, *TRAIN, *arguments(tiny_data), "--out", tmp_path / "run", options=options)
    assert done.returncode != 0
    assert "started this process in elastic mode (HOROVOD_ELASTIC=1)" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
