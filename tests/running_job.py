"""A training job that is watched while it runs: its lines, and the processes of its ranks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hvd_r2n2.comm.watch import SIGNS_FOLDER
from tests.conftest import BIN, launch_environment
from tests.short_runs import TRAIN

LAUNCHERS = {
    "python": (),
    "mpirun": ("mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2"),
    "horovodrun": ("horovodrun", "-np", "2"),
    "horovodrun --gloo": ("horovodrun", "--gloo", "-np", "2"),
}


class RunningJob:
    """A started job; `output` is all that has been read of its output, both streams together."""

    def __init__(self, process: subprocess.Popen[str], run: Path) -> None:
        self.process, self.run, self.output = process, run, ""

    def wait_for_line(self, pattern: str) -> None:
        """Read on until a line matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if re.search(pattern, line):
                return
        pytest.fail(f"no line matches {pattern!r} in:\n{self.output}")

    def pid(self, rank: int) -> int:
        """Return the process of a rank, as it says itself."""
        return int((self.run / SIGNS_FOLDER / str(rank)).read_text().split()[3])

    def wait(self, limit_s: float) -> int:
        """Read to the end and return the exit code."""
        out, _ = self.process.communicate(timeout=limit_s)
        self.output += out
        return self.process.returncode


@contextmanager
def running_job(launcher: str, arguments: Sequence[str], run: Path) -> Iterator[RunningJob]:
    """Start training in `run`; its process group is killed at the end if it still runs."""
    words = LAUNCHERS[launcher]
    if words and not (BIN / words[0]).exists():
        pytest.skip(f"{words[0]} is not installed beside {sys.executable} (scripts/setup.sh installs it)")
    command = [*([str(BIN / words[0]), *words[1:]] if words else []), sys.executable, *TRAIN, *arguments]
    process = subprocess.Popen(
        [*command, "--out", str(run)],
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    job = RunningJob(process, run)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def assert_gone(pids: Sequence[int], limit_s: float = 30) -> None:
    """Fail if one of these processes still runs after the limit (one that nobody has waited for is gone, too)."""
    deadline = time.monotonic() + limit_s
    while left := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, f"processes {left} are left running"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
