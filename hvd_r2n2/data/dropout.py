"""Dropout masks as inputs of a network: which features a sample keeps, whatever rank or micro-batch it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hvd_r2n2.data.random_numbers import Purpose, raw_numbers

_BITS = 64


def draw_masks(
    seed: int, epochs: Sequence[int], samples: Sequence[int], widths: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Draw masks that keep each feature with probability 1/2 (B×F uint8, 1 keeps), by name.

    Row b is a function of (seed, epoch, sample) of sample b and of `widths`, which gives F by name.
    """
    words = {name: -(-width // _BITS) for name, width in widths.items()}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in widths}
    for epoch, sample in zip(epochs, samples, strict=True):
        numbers = raw_numbers(Purpose.DROPOUT, seed, epoch, sample, sum(words.values()))
        start = 0
        for name, count in words.items():
            # Each random bit is a feature's; the bytes in one order on every machine.
            bits = np.unpackbits(numbers[start : start + count].astype("<u8").view(np.uint8))
            rows[name].append(bits[: widths[name]])
            start += count
    return {name: torch.from_numpy(np.stack(masks)) for name, masks in rows.items()}
