"""The doctor: what it finds here, under a launcher, and where Horovod is missing."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from hvd_r2n2.comm import SEGMENTED_RING
from tests.conftest import REPOSITORY, Launcher
from tests.without_horovod import environment_without_horovod

DOCTOR = ("-m", "hvd_r2n2.doctor")


def test_doctor_tries_two_ranks_of_its_own(python: Launcher, mpirun: Launcher, tmp_path: Path) -> None:
    done = python(*DOCTOR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^ 2 ranks +ok +mpirun -np 2: [CG]PU allreduce is right, Horovod [\d.]+ over MPI",
        done.stdout,
        re.M,
    )
    for rank in (0, 1):
        assert len(re.findall(rf"rank {rank} -> {socket.gethostname()} -> (cpu|cuda:\d), \d+ thread", done.stdout)) == 1
    assert "ready to train: horovodrun -np 2 python -m hvd_r2n2.train" in done.stdout
    assert "problem" not in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ring_that_ranks_on_several_hosts_use_gives_the_right_sums(ranks: int, mpirun: Launcher) -> None:
    done = mpirun(ranks, *DOCTOR, environment=dict(SEGMENTED_RING))
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert re.search(rf" {ranks} ranks ok mpirun: [CG]PU allreduce is right, .* large means by a segmented ring", said)


def test_doctor_under_a_launcher_tests_its_ranks_and_speaks_once(mpirun: Launcher) -> None:
    done = mpirun(2, *DOCTOR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"2 ranks +ok +mpirun: [CG]PU allreduce is right, Horovod [\d.]+ over ", done.stdout)) == 1
    for rank in (0, 1):
        assert done.stdout.count(f"rank {rank} -> {socket.gethostname()} -> ") == 1
    for once in ("Python ", "torch ", "ready to train"):
        assert done.stdout.count(once) == 1
    assert "\x1b" not in done.stdout


def test_doctor_without_horovod_says_what_to_do(tmp_path: Path, python: Launcher) -> None:
    done = python(*DOCTOR, environment=environment_without_horovod(tmp_path / "site"))
    assert done.returncode == 1
    assert re.search(r"Horovod +problem +not installed: only one rank can train *\n +-> run make setup", done.stdout)
    assert "training with several ranks cannot run: see the remedies above" in done.stdout
    assert "ready to train" not in done.stdout
    assert done.stderr == ""


def test_doctor_without_torch_and_rich_says_what_to_do(tmp_path: Path, python: Launcher) -> None:
    done = python("-S", *DOCTOR, cwd=REPOSITORY)  # -S: no site-packages, as a Python that is not the .venv's
    assert done.returncode == 1
    assert re.search(
        r"packages +problem +torch, numpy, .*rich, .* not installed\n +-> source .venv/bin/activate", done.stdout
    )
    assert done.stderr == ""


def test_doctor_among_processes_that_are_no_ranks_says_so(python: Launcher) -> None:
    done = python(*DOCTOR, environment={"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})
    assert done.returncode == 1
    assert "srun started 2 processes (SLURM_STEP_NUM_TASKS), but not as ranks of Open MPI: use mpirun" in done.stderr
