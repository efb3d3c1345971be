"""A disk that is full, or cannot be written for a while: training goes on, and only a lost end is an error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hvd_r2n2.training.checkpoint import read_checkpoint
from tests.conftest import Launcher, run_command
from tests.mounts import mount
from tests.running_job import running_job
from tests.short_runs import TRAIN, settings, weights

LIMIT_S = 120


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def arguments(data: Path, steps: int, **more: object) -> list[str]:
    short = {
        "train__steps": steps,
        "train__dtype": "float32",
        "checkpoint__every_steps": 1,
        "checkpoint__keep_last": 50,
    }
    return settings(data, **short, **more, evaluation__every_steps=1000)


def test_full_disk_is_a_warning_and_at_the_end_an_error(small_disk: Path, tiny_data: Path, python: Launcher) -> None:
    run = small_disk / "run"
    done = python(*TRAIN, *arguments(tiny_data, 12), "--out", run)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    message = rf"{run}/checkpoints/step-(\d{{8}}): the checkpoint could not be written .*No space left.*"
    last = read_checkpoint((run / "checkpoints" / "last").resolve())
    assert 2 <= last.step < 12
    warned = re.findall(f"^warning: {message}; training goes on", done.stdout, re.MULTILINE)
    assert [int(step) for step in warned] == list(range(last.step + 1, 12))
    assert re.findall(f"error: {message}", done.stderr) == ["00000012"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "last",
        *(f"step-{step:08d}" for step in range(1, last.step + 1)),
    }
    mount("-o", "remount,size=20m", small_disk)
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert f"going on from step-{last.step:08d}" in resumed.stdout


def test_checkpoints_whose_links_cannot_be_set_are_whole(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    run = tmp_path / "run"
    in_the_way = run / "checkpoints" / ".partial-last"  # where a new link is made
    in_the_way.mkdir(parents=True)
    done = python(*TRAIN, *arguments(tiny_data, 3), "--resume", "--out", run)
    assert done.returncode == 1
    message = rf"{run}/checkpoints/step-(\d{{8}}): the checkpoint is written, but .*"
    assert re.findall(f"^warning: {message}; training goes on", done.stdout, re.MULTILINE) == ["00000001", "00000002"]
    assert re.findall(f"error: {message}", done.stderr) == ["00000003"]
    in_the_way.rmdir()
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert read_checkpoint((run / "checkpoints" / "last").resolve()).step == 3


def test_old_checkpoint_that_cannot_be_removed_is_a_warning_in_the_log(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    left = run / "checkpoints" / ".partial-old-step-99999999"
    with running_job("python", arguments(tiny_data, 100), run) as job:
        while not (run / "checkpoints" / "last").exists():
            assert job.process.poll() is None, job.output
        os.kill(job.process.pid, signal.SIGSTOP)  # or it might remove the folder before something is mounted there
        left.mkdir()
        mount("-t", "tmpfs", "none", left)
        os.kill(job.process.pid, signal.SIGCONT)
        try:
            assert job.wait(LIMIT_S) == 0, job.output
        finally:
            subprocess.run(["umount", "-l", left], check=True)
    assert f"warning: {left.parent}: 1 old checkpoint(s)" in (run / "train.log").read_text()


def test_disk_that_gets_room_again_changes_nothing_else(
    small_disk: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    whole = python(*TRAIN, *arguments(tiny_data, 100), "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    with running_job("python", arguments(tiny_data, 100), small_disk / "run") as job:
        job.wait_for_line("the checkpoint could not be written")
        mount("-o", "remount,size=50m", small_disk)
        assert job.wait(LIMIT_S) == 0, job.output
    one, other = weights(tmp_path / "whole", 100), weights(small_disk / "run", 100)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_checkpoints_that_cannot_be_written_for_a_while_keep_ranks_together(tiny_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    with running_job("mpirun", arguments(tiny_data, 150), tmp_path / "run") as job:
        job.wait_for_line("steps 0 to 150")
        while not (folder / "last").exists():
            assert job.process.poll() is None, job.output
        mount("--bind", folder, folder)
        try:
            mount("-o", "remount,bind,ro", folder)
            job.wait_for_line(r"could not be written \(.*Read-only file system.*training goes on")
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        assert job.wait(LIMIT_S) == 0, job.output
    assert read_checkpoint((folder / "last").resolve()).step == 150


def test_disk_that_is_full_for_all_files_is_named(small_disk: Path, tiny_data: Path, python: Launcher) -> None:
    mount("-o", "remount,size=65536", small_disk)
    more = {"log__tensorboard": "true", "log__pictures": 2, "log__every_steps": 1}
    done = python(*TRAIN, *arguments(tiny_data, 3, **more), "--out", small_disk / "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(rf"error: {small_disk}/run/[a-z]+\S*: .*No space left on device", done.stderr), done.stderr


@pytest.mark.parametrize("output", ["> /dev/full", "2>&1 | head -n 1", "<&- >&- 2>&-"])
def test_output_that_is_full_or_closed_does_not_end_training(output: str, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shell = ("bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "bash")
    done = run_command(
        [*shell, sys.executable, *TRAIN, *arguments(tiny_data, 2), "--out", run],
        environment={"PYTHONUNBUFFERED": ""},
    )
    assert done.returncode == 0, done.stderr
    full = f"warning: {run}: the output: No space left on device; training goes on without what belongs there\n"
    assert done.stderr == (full if "full" in output else "")
    assert len(done.stdout.splitlines()) == ("head" in output)
    assert "results in" in (run / "train.log").read_text()
    assert read_checkpoint((run / "checkpoints" / "last").resolve()).step == 2
