"""What makes files together: one process at a time under a lock, on all its cores."""

import fcntl
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hvd_r2n2.common.files import NO_FILE_LOCKS

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def locked(path: Path, doing: str, hint: str, report: Callable[[str], None], head_start_s: float) -> Iterator[None]:
    """Hold the lock of this file, which is made with its folder, after the others' head start.

    Who must wait is told what (`doing`, such as "writing shapes to DIR") the process that it waits for does.

    Raises:
        ValueError: the file system has no locks; says `hint`.
        OSError: the file cannot be written.
    """
    time.sleep(head_start_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    # flock belongs to the open file: it also keeps threads apart, and ends with the process, however that ends.
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            report(f"waiting for {holder}, which is {doing}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno in NO_FILE_LOCKS:
                raise ValueError(
                    f"the file system of {path.parent} has no file locks ({error.strerror}); {hint}"
                ) from error
            raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
        file.truncate(0)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_in_order(executor: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Work ahead by a bounded number of items, so that a slow disk does not fill the memory."""
    ahead: deque[Future[R]] = deque()
    for item in items:
        ahead.append(executor.submit(work, item))
        if len(ahead) > 4 * num_cores():
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
