"""Who has waited too long says so, and for whom."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hvd_r2n2.comm.watch import StallWatch

LIMIT_S = 30


class Watched:
    """The watches of three ranks in one process, and what they had to say."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.ranks = [StallWatch(rank, 3, timeout_s, self.said.put) for rank in range(3)]
        for watch in self.ranks:
            watch.set(timeout_s, folder)  # rank 0 first: it takes away what a killed job has left


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path, 0.4)
    yield watched
    for watch in watched.ranks:
        watch.close()
    assert list(tmp_path.iterdir()) == [], "signs of life are left behind"


def test_rank_that_lives_but_does_not_come_is_named(watched: Watched) -> None:
    with watched.ranks[0].waiting("a barrier"), watched.ranks[2].waiting("a barrier"):
        said = watched.said.get(timeout=LIMIT_S)
    assert said.startswith("waited more than 0.4 s for the other ranks (a barrier): rank 1 (process ")
    assert "lives but has not come so far" in said


def test_rank_without_signs_of_life_is_named(watched: Watched) -> None:
    watched.ranks[1].close()
    with watched.ranks[0].waiting("a barrier"), watched.ranks[2].waiting("a barrier"):
        assert "no sign of life from rank 1. The job ends" in watched.said.get(timeout=LIMIT_S)


def test_ranks_that_all_wait_do_not_accuse_each_other(watched: Watched) -> None:
    with ExitStack() as stack:
        for watch in watched.ranks:
            stack.enter_context(watch.waiting("a barrier"))
        assert "all ranks live and wait as well; the network" in watched.said.get(timeout=LIMIT_S)


def test_rank_that_waits_often_but_never_long_is_silent(watched: Watched) -> None:
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        with watched.ranks[0].waiting("a mean"):
            time.sleep(0.01)
    assert watched.said.empty()
