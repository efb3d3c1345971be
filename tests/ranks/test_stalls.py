"""A rank that is killed or stops for ever ends the whole job in bounded time, and the others say which one it was."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from hvd_r2n2.common.exit_codes import ExitCode
from hvd_r2n2.training.checkpoint import read_checkpoint
from tests.running_job import assert_gone, running_job
from tests.short_runs import settings

LIMIT_S = 90
STALL_S = 5
"""Longer than a rank waits for another on a machine that runs other tests at the same time."""


def arguments(data: Path, steps: int, stall_timeout_s: float) -> list[str]:
    return settings(
        data,
        train__steps=steps,
        train__dtype="float32",
        train__stall_timeout_s=stall_timeout_s,
        checkpoint__every_steps=2,
        log__every_steps=1,
    )


@pytest.mark.parametrize(
    ("launcher", "rank", "fault"),
    [
        ("mpirun", 0, signal.SIGSTOP),
        ("horovodrun", 1, signal.SIGSTOP),
        ("horovodrun --gloo", 1, signal.SIGSTOP),
        ("horovodrun --gloo", 1, signal.SIGKILL),
    ],
    ids=str,
)
def test_rank_that_is_lost_ends_the_job(
    launcher: str, rank: int, fault: signal.Signals, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with running_job(launcher, arguments(tiny_data, 100_000, stall_timeout_s=STALL_S), run) as job:
        job.wait_for_line("step 5 ")
        pids = [job.pid(0), job.pid(1)]
        os.kill(pids[rank], fault)
        start = time.monotonic()
        assert job.wait(LIMIT_S) != 0
    assert_gone(pids)
    print(f"{launcher}: {fault.name} to rank {rank}: the job ended after {time.monotonic() - start:.1f} s")
    if fault == signal.SIGSTOP:
        waited = rf"rank {1 - rank}: waited more than {STALL_S} s for the other ranks \(.*\)"
        lost = rf"no sign of life from rank {rank} \(process {pids[rank]} on "
        assert re.search(f"{waited}: {lost}", job.output), job.output
    assert read_checkpoint((run / "checkpoints" / "last").resolve()).step >= 2


def test_rank_that_stops_for_a_while_is_waited_for(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running_job("mpirun", arguments(tiny_data, 100_000, stall_timeout_s=30), run) as job:
        job.wait_for_line("step 5 ")
        pid = job.pid(1)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGUSR1)  # the end, after a further step of both
        assert job.wait(LIMIT_S) == ExitCode.STOPPED, job.output
    assert not (run / ".ranks").exists(), "signs of life are left behind"
