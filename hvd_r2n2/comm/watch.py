"""Notices that this rank has waited too long for the others, says for whom, and ends the job."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SIGNS_FOLDER = ".ranks"
"""In the run directory: a file a rank, by its number, that changes as long as the rank lives."""

_LONGEST_BEAT_S = 5.0
_BEATS_TO_LOOK = 3
_BEATS_TO_TIMEOUT = 8


@dataclass(frozen=True)
class _Sign:
    """What a rank wrote last of itself."""

    beat: int
    calls: int
    where: str


class StallWatch:
    """A thread that ends the job when this rank has waited too long inside one collective operation.

    Horovod's own check runs in the threads of all ranks: one that is stopped (SIGSTOP), or whose host is gone, holds
    up the check as well. Here every rank looks at its own clock. Whom it waits for is told by the signs of life that
    ranks keep in a folder they share: who has stopped changing his, or lives and has entered fewer operations.
    """

    def __init__(self, rank: int, size: int, timeout_s: float, end: Callable[[str], None]) -> None:
        """Start watching; `end` is called, from another thread, with what to say."""
        self._rank, self._size, self._end = rank, size, end
        self._timeout_s = timeout_s
        self._signs: Path | None = None
        self._since: tuple[float, str] | None = None
        self._calls = 0
        self._beat = 0
        self._changed, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="hvd_r2n2-watch", daemon=True)
        self._thread.start()

    def set(self, timeout_s: float, run_folder: Path | None) -> None:
        """Wait so long from now on, and keep signs of life in the run directory, if one is given."""
        self._timeout_s = timeout_s
        if run_folder is not None:
            self._signs = run_folder / SIGNS_FOLDER
            if self._rank == 0:  # what a job that was killed has left
                shutil.rmtree(self._signs, ignore_errors=True)
            with suppress(OSError):  # signs only help to name a rank
                self._signs.mkdir(exist_ok=True)
        self._changed.set()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say that this rank is in a collective operation meanwhile."""
        self._calls += 1
        self._since = (time.monotonic(), what)
        try:
            yield
        finally:
            self._since = None

    def close(self) -> None:
        """Stop watching and take this rank's sign away."""
        self._is_closed = True
        self._changed.set()
        self._thread.join()
        if self._signs is not None:
            with suppress(OSError):
                (self._signs / str(self._rank)).unlink(missing_ok=True)
                self._signs.rmdir()  # the last rank succeeds

    def _run(self) -> None:
        while not self._is_closed:
            self._give_sign()
            since = self._since
            if since is not None and time.monotonic() - since[0] > self._timeout_s:
                missing = self._whom()
                if self._since is since and not self._is_closed:
                    self._end(
                        f"waited more than {self._timeout_s:g} s for the other ranks ({since[1]}): {missing}. The job "
                        "ends; go on with --resume (a larger train.stall_timeout_s waits longer)"
                    )
            self._changed.wait(self._beat_s())
            self._changed.clear()

    def _beat_s(self) -> float:
        return min(_LONGEST_BEAT_S, self._timeout_s / _BEATS_TO_TIMEOUT)

    def _give_sign(self) -> None:
        self._beat += 1
        if self._signs is not None:
            text = f"{self._beat} {self._calls} process {os.getpid()} on {socket.gethostname()}\n"
            partial = self._signs / f"{self._rank}.partial"
            with suppress(OSError):
                partial.write_text(text, encoding="utf-8")
                partial.replace(self._signs / str(self._rank))

    def _whom(self) -> str:
        """Say whom this rank waits for, after having looked at everybody's signs for some beats."""
        if self._signs is None:
            return "at least one other rank is stopped, lost or busy elsewhere"
        before = self._read_signs()
        for _ in range(_BEATS_TO_LOOK):
            time.sleep(self._beat_s())
            self._give_sign()
        after = self._read_signs()
        silent = [rank for rank in range(self._size) if after[rank] is None or after[rank] == before[rank]]
        if silent:
            return f"no sign of life from {_names(silent, after)}"
        behind = [rank for rank, sign in enumerate(after) if sign is not None and sign.calls < self._calls]
        if behind:
            return f"{_names(behind, after)} lives but has not come so far"
        return "all ranks live and wait as well; the network between them may be gone"

    def _read_signs(self) -> list[_Sign | None]:
        assert self._signs is not None
        return [_read_sign(self._signs / str(rank)) for rank in range(self._size)]


def _read_sign(path: Path) -> _Sign | None:
    try:
        beat, calls, where = path.read_text(encoding="utf-8").strip().split(" ", 2)
        return _Sign(int(beat), int(calls), where)
    except (OSError, ValueError):
        return None


def _names(ranks: Sequence[int], signs: Sequence[_Sign | None]) -> str:
    def name(rank: int) -> str:
        sign = signs[rank]
        return f"rank {rank}" + (f" ({sign.where})" if sign is not None else "")

    return ", ".join(map(name, ranks))
