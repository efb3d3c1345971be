"""One job at a time in a run directory; a dead one does not keep it, on whatever host it was."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvd_r2n2.training import run_lock as run_locks
from hvd_r2n2.training.run_lock import run_lock

LIMIT_S = 60
HOLD = """
import sys
from pathlib import Path
from hvd_r2n2.training import run_lock
run_lock._BEAT_S = 0.2
with run_lock.run_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""
STRANGER = "process 7 on node3, since 2026-01-02 03:04:05\n00000000-0000-0000-0000-000000000000\n"

Holder = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Start a process that holds the lock of a folder until its input ends."""
    processes = []

    def start(folder: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_locks, "_DEAD_AFTER_S", 1.0)
    monkeypatch.setattr(run_locks, "_FREED_AFTER_S", 1.5)
    monkeypatch.setattr(run_locks, "_LOOK_S", 0.1)


def test_second_job_is_refused_at_once_and_may_start_after_the_first(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path)
    refusal = rf"--out .*: process {first.pid} on \S+, since .* is training there; choose another"
    with pytest.raises(ValueError, match=refusal), run_lock(tmp_path, pytest.fail):
        pass
    first.communicate("", timeout=LIMIT_S)
    with run_lock(tmp_path, pytest.fail):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


def test_killed_job_does_not_block(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert f"process {first.pid} on " in (tmp_path / ".lock").read_text()
    with run_lock(tmp_path, pytest.fail):
        pass


@pytest.mark.usefixtures("impatient")
def test_dead_job_of_another_host_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"{STRANGER}000000000041\n")
    told: list[str] = []
    with run_lock(tmp_path, told.append):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    assert re.match(r"process 7 on node3, since .* holds .*: waiting to see if it still lives", told[0])
    assert re.match(r"process 7 on node3, since .* is gone: taking its place", told[-1])


@pytest.mark.usefixtures("impatient")
def test_living_job_of_another_host_is_seen_without_a_file_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"{STRANGER}000000000041\n")
    beat = threading.Timer(0.4, lambda: (tmp_path / ".lock").write_text(f"{STRANGER}000000000042\n"))
    beat.start()
    refusal = "process 7 on node3, since .* is training there"
    with pytest.raises(ValueError, match=refusal), run_lock(tmp_path, lambda text: None):
        pass
    beat.join()


@pytest.mark.usefixtures("impatient")
def test_lock_that_a_file_server_never_frees_is_refused_in_the_end(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.send_signal(signal.SIGSTOP)  # it holds the file lock and counts no more
    (tmp_path / ".lock").write_text(f"{STRANGER}000000000041\n")
    refusal = "process 7 on node3, since .* is training there"
    with pytest.raises(ValueError, match=refusal), run_lock(tmp_path, lambda text: None):
        pass


def test_job_whose_place_was_taken_ends(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path)
    with (tmp_path / ".lock").open("r+") as file:  # in place, as a job does it
        file.write(f"{STRANGER}000000000000\n")
    assert first.wait(timeout=LIMIT_S) == 1
    assert first.stderr is not None
    assert "process 7 on node3, since 2026-01-02 03:04:05 has taken this run over; this job ends" in first.stderr.read()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_file_system_without_locks_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    refusal = rf"--out {tmp_path}: its file system has no file locks \({os.strerror(number)}\); choose a folder on"
    with pytest.raises(ValueError, match=refusal), run_lock(tmp_path, pytest.fail):
        pytest.fail("it was taken for free")
