"""Random numbers as a pure function of a key: never of the order of ranks, workers or calls.

They come straight from the counter-based generator Philox 4x64 (Salmon et al., SC 2011), whose raw output NumPy
promises never to change; so a run resumed under another version sees the same batches.
"""

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
    # The upper 53 bits, as many as a float64 has.
    whole = (raw_numbers(purpose, seed, major, minor, count) >> np.uint64(11)).astype(np.float64)
    return np.multiply(whole, 2.0**-53)
