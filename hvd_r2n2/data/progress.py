"""How far a long job on files is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvd_r2n2.common.terminals import can_draw

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(title: str, total: int, report: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Give a function to be called with the number of items just done.

    Standard error gets a bar if it is a terminal that can draw one; otherwise `report` gets a line every ten seconds.
    """
    if can_draw(sys.stderr):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
        return
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = now
            report(f"{title}: {done:,} of {total:,}, about {(now - start) / done * (total - done):.0f} s left")

    yield advance
