"""Ranks that are threads of one process, for what needs a communicator only to gather or broadcast objects."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from hvd_r2n2.comm import Alone, Communicator

T = TypeVar("T")


class ThreadRank(Alone):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, shelf: dict[int, Any], meeting: threading.Barrier) -> None:
        super().__init__()
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self._shelf, self._meeting = shelf, meeting

    def all_gather_object(self, value: T) -> list[T]:
        self._shelf[self.rank] = value
        self._meeting.wait(timeout=60)
        gathered = [self._shelf[rank] for rank in range(self.size)]
        self._meeting.wait(timeout=60)  # nobody puts the next thing there before all have this one
        return gathered

    def broadcast_object(self, value: T) -> T:
        return self.all_gather_object(value)[0]


def on_ranks(size: int, job: Callable[[Communicator], T]) -> list[T]:
    """Run the job on every rank and return what each gave."""
    shelf: dict[int, Any] = {}
    meeting = threading.Barrier(size)
    results: dict[int, T] = {}

    def run(rank: int) -> None:
        results[rank] = job(ThreadRank(rank, size, shelf, meeting))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == size, "a rank failed; its exception is among the warnings"
    return [results[rank] for rank in range(size)]
