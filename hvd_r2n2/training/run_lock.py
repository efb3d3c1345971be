"""The lock of a run directory: one job at a time trains in it, on whatever host; a dead job does not keep it.

A file lock (flock) is the proof on one machine, and the system frees it with its process, however that ends. Whether
it reaches other hosts depends on the file system, so the holder also writes itself into the file, with a count that
rises every few seconds. Who finds another host's name there waits to see whether the count still rises. Two jobs of
different hosts that take a dead one's place at the same moment both write; the one that then finds the other's name
in the file ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hvd_r2n2.comm import abort
from hvd_r2n2.common.files import NO_FILE_LOCKS

_BEAT_S = 5.0
_DEAD_AFTER_S = 20.0
"""A holder on another host whose count has not risen for so long is dead."""
_FREED_AFTER_S = 120.0
"""So long a file server may keep a lock for a host that is gone (NFS: 90 s)."""
_LOOK_S = 0.5
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def run_lock(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Make the run directory and hold its lock; `report` is told when that takes a while.

    Raises:
        ValueError: the directory cannot be made, its file system has no file locks, or another job is training in it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise ValueError(f"--out {folder}: no run directory can be made there ({reason}); choose another") from None
    try:
        _acquire(descriptor, path, report)
        with _beating(descriptor, path):
            yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, report: Callable[[str], None]) -> None:
    """Return with the lock, after waiting for proof that a holder on another machine is dead, if there is one."""
    start, first = time.monotonic(), _read(path)
    while True:
        is_free, found = _try_lock(descriptor, path.parent), _read(path)
        is_here = found[1:2] == [_this_boot()]
        if is_free and (is_here or not found):
            return
        waited = time.monotonic() - start
        if is_free and waited > _DEAD_AFTER_S and found == first:
            report(f"{found[0]} was training in {path.parent} and is gone: taking its place")
            return
        if found != first or (is_here and not is_free) or waited > _FREED_AFTER_S:
            holder = found[0] if found else "another process"
            raise ValueError(f"--out {path.parent}: {holder} is training there; choose another")
        if waited < _LOOK_S:
            report(f"{found[0] if found else 'another process'} holds {path.parent}: waiting to see if it still lives")
        time.sleep(_LOOK_S)


def _try_lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_FILE_LOCKS:
            raise ValueError(
                f"--out {folder}: its file system has no file locks ({error.strerror}); choose a folder on another one"
            ) from error
        raise
    return True


def _read(path: Path) -> list[str]:
    """Return the lines of the file; opened anew, so that a network file system looks at its server."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


@contextmanager
def _beating(descriptor: int, path: Path) -> Iterator[None]:
    """Write this process into the file as its holder, and count there meanwhile."""
    holder = [
        f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}",
        _this_boot(),
    ]
    stop = threading.Event()

    def write(count: int) -> None:
        # In place and in one piece: a reader never sees an empty file, which would say that nobody holds it.
        os.pwrite(descriptor, "\n".join((*holder, f"{count:012d}\n")).encode(), 0)
        os.fsync(descriptor)

    def beat() -> None:
        count = 0
        while not stop.wait(_BEAT_S):
            count += 1
            with suppress(OSError):  # on a full or lost disk: others then go by the file lock alone
                found = _read(path)
                if found[:2] != holder:
                    abort(f"{path}: {found[0] if found else 'another job'} has taken this run over; this job ends")
                write(count)

    os.ftruncate(descriptor, 0)
    write(0)
    thread = threading.Thread(target=beat, name="hvd_r2n2-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.ftruncate(descriptor, 0)


def _this_boot() -> str:
    """Return what tells this machine, whose processes share file locks, from all others."""
    return _BOOT.read_text(encoding="ascii").strip()
