"""One record a sample, measured on every rank, gathered and sorted: the same whatever the ranks and their threads.

On a CPU every batch is computed by one thread, and a rank's threads work on different batches. On a GPU the network
runs in one thread, and what needs no network, such as F-scores, in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import torch
from torch import nn

from hvd_r2n2.comm import Communicator, JobError
from hvd_r2n2.data.loader import Batch, BatchStream
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.training.forward import evaluating

Report = Callable[[str], None]


class Record(Protocol):
    """What was measured of one sample."""

    @property
    def index(self) -> int:
        """Its position in the data set."""
        ...


R = TypeVar("R", bound=Record)
Measure = Callable[[Batch], Callable[[], Sequence[R]]]
"""Runs the network on a batch and returns what is left to do without it, which gives the records."""


def measure_samples(
    model: nn.Module,
    batches: BatchStream,
    measure: Measure[R],
    *,
    num_samples: int,
    title: str,
    comm: Communicator,
    device: torch.device,
    report: Report | None,
) -> tuple[R, ...]:
    """Return the records, by index, of all samples of all ranks' `batches`, which are closed.

    Every rank must call this and gets the same result; the records, not the pictures, are gathered. The network must be
    on `device` and is in evaluation mode meanwhile. What `measure` returns, and on a CPU `measure` too, is called by
    several threads at once. With `report`, this rank's progress is shown, under the `title`.

    Raises:
        JobError: the ranks together did not measure each of `num_samples` samples once.
    """

    def measure_one(batch: Batch) -> Callable[[], Sequence[R]]:
        with torch.inference_mode():
            return measure(batch)

    with evaluating(model), batches, _progress(title, num_samples, comm, report) as advance:
        is_cpu = device.type == "cpu"
        records = _measure_on_threads(
            measure_one, batches, lambda count: advance(count * comm.size), network_too=is_cpu
        )
    gathered = [record for share in comm.all_gather_object(records) for record in share]
    different = len({record.index for record in gathered})
    if not len(gathered) == different == num_samples:
        raise JobError(
            f"{title}: {len(gathered)} records of {different} samples, not one of each of {num_samples}; every rank "
            "must see the same data"
        )
    return tuple(sorted(gathered, key=lambda record: record.index))


def _progress(
    title: str, num_samples: int, comm: Communicator, report: Report | None
) -> AbstractContextManager[Callable[[int], None]]:
    if report is None:
        return nullcontext(lambda count: None)
    ranks = f", share of rank {comm.rank} for all {comm.size}" if comm.size > 1 else ""
    return show_progress(title + ranks, num_samples, report)


def _measure_on_threads(
    measure: Measure[R], batches: Iterable[Batch], advance: Callable[[int], None], *, network_too: bool
) -> list[R]:
    """Measure as many batches at once as this thread has threads for arithmetic, each with a single one.

    Threads that share one sum change its last digits with their number; a batch on one thread has always the same.
    Unless the `network_too` runs there, this thread runs it on one batch after the other.
    """
    num_threads = torch.get_num_threads()
    records: list[R] = []
    running: deque[Future[Sequence[R]]] = deque()

    def collect() -> None:
        found = running.popleft().result()
        records.extend(found)
        advance(len(found))

    def whole(batch: Batch) -> Sequence[R]:
        return measure(batch)()

    try:
        # The initializer speaks of the thread that it runs in, not of this one.
        with ThreadPoolExecutor(num_threads, "hvd_r2n2-evaluation", torch.set_num_threads, (1,)) as pool:
            for batch in batches:
                running.append(pool.submit(whole, batch) if network_too else pool.submit(measure(batch)))
                if len(running) > num_threads:  # one waits, so that no thread does
                    collect()
            while running:
                collect()
    finally:
        torch.set_num_threads(num_threads)  # what threads that are started later begin with
    return records
