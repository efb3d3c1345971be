"""Random numbers as a pure function of a key: never of the order of ranks, workers or calls.

They come straight from the counter-based generator Philox 4x64 (Salmon et al., SC 2011), whose raw output NumPy
promises never to change; so a run resumed under another version sees the same batches.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Purpose(IntEnum):
    """What the numbers are for; different purposes are independent streams."""

    ORDER = 1
    NUM_VIEWS = 2
    SAMPLE = 3
    DROPOUT = 4


def raw_numbers(purpose: Purpose, seed: int, major: int, minor: int, count: int) -> npt.NDArray[np.uint64]:
    """Return `count` numbers, uint64, of the stream named by purpose, seed and two counters (epoch and sample, say).

    A longer request begins with the numbers of a shorter one.
    """
    # The generator steps the lowest word of its 256-bit counter; the others name the stream.
    return np.random.Philox(key=[seed, purpose], counter=[0, minor, major, 0]).random_raw(count)


def uniform_numbers(purpose: Purpose, seed: int, major: int, minor: int, count: int) -> npt.NDArray[np.float64]:
    """Return `count` numbers uniform in [0, 1), as `raw_numbers` does."""
    return _uniform(raw_numbers(purpose, seed, major, minor, count))


def uniform_rows(
    purpose: Purpose, seed: int, counters: Sequence[tuple[int, int]], count: int
) -> npt.NDArray[np.float64]:
    """Return the `uniform_numbers` of each (major, minor), a row each; a quarter of their time."""
    raw = np.empty((len(counters), count), dtype=np.uint64)
    # One generator, set to each stream in turn: a new one would ask the system for randomness that it does not use.
    generator = np.random.Philox(key=[seed, purpose])
    beginning = generator.state
    for row, (major, minor) in zip(raw, counters, strict=True):
        beginning["state"]["counter"][1], beginning["state"]["counter"][2] = minor, major
        generator.state = beginning
        row[:] = generator.random_raw(count)
    return _uniform(raw)


def _uniform(raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    # The upper 53 bits, as many as a float64 has.
    return np.multiply((raw >> np.uint64(11)).astype(np.float64), 2.0**-53)
