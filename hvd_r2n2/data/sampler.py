"""Which sample goes where: pure functions of the seed and the step, so that any number of ranks sees one order.

The samples of a step, drawn for B = 6 and 2 ranks; the epochs' permutations follow each other without a gap:

    position      0 1 2 3 4 5 | 6 7 8 9 ...
    epoch (N = 8) 0 0 0 0 0 0 | 0 0 1 1 ...
    step               0      |   1
    rank          0 0 0 1 1 1 | 0 0 0 1 ...
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from hvd_r2n2.data.random_numbers import Purpose, raw_numbers, uniform_numbers


@dataclass(frozen=True)
class Placement:
    """One sample of a step: the epoch it is drawn in and its position among the training samples."""

    epoch: int
    position: int


def epoch_order(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the permutation of 0 ... num_samples - 1 of an epoch."""
    return np.argsort(raw_numbers(Purpose.ORDER, seed, epoch, 0, num_samples), kind="stable")


class EpochOrders:
    """The permutations of the epochs, of which the last two are remembered: to sort all samples takes milliseconds."""

    def __init__(self, num_samples: int, seed: int) -> None:
        """Begin with none."""
        self.num_samples = num_samples
        self.order = lru_cache(maxsize=2)(partial(epoch_order, num_samples, seed))
        """From an epoch to its `epoch_order`; any thread may call it."""


def global_batch(orders: EpochOrders, batch_size: int, step: int) -> tuple[Placement, ...]:
    """Return the samples of a step over all ranks, in order; a batch may reach over the end of an epoch."""
    num_samples = orders.num_samples
    places: list[Placement] = []
    position = step * batch_size
    end = position + batch_size
    while position < end:
        epoch, start = divmod(position, num_samples)
        count = min(end - position, num_samples - start)
        places += (Placement(epoch, sample) for sample in orders.order(epoch)[start : start + count].tolist())
        position += count
    return tuple(places)


def rank_slice(batch_size: int, rank: int, size: int) -> slice:
    """Return the part of a global batch that a rank reads.

    Raises:
        ValueError: the ranks' parts would not be equal (a mean over ranks would then weigh samples differently).
    """
    if batch_size % size:
        near = sorted({max(1, batch_size // size) * size, (batch_size // size + 1) * size})
        raise ValueError(
            f"a global batch of {batch_size} does not divide among {size} ranks (use {' or '.join(map(str, near))})"
        )
    share = batch_size // size
    return slice(rank * share, (rank + 1) * share)


def num_views_of_step(seed: int, step: int, min_views: int, max_views: int) -> int:
    """Return how many views a step has, uniform in min_views ... max_views and the same on every rank."""
    (uniform,) = uniform_numbers(Purpose.NUM_VIEWS, seed, step, 0, 1)
    return min_views + int(uniform * (max_views - min_views + 1))


def evaluation_chunks(num_samples: int, batch_size: int, rank: int, size: int) -> tuple[range, ...]:
    """Return a rank's chunks of 0 ... num_samples - 1: chunk c of batch_size goes to rank c mod size.

    Over all ranks each sample comes exactly once; the last chunk may be shorter, and a rank may have none.
    """
    starts = range(rank * batch_size, num_samples, size * batch_size)
    return tuple(range(start, min(start + batch_size, num_samples)) for start in starts)
