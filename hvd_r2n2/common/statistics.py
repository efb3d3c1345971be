"""A figure that was measured several times: its median and its spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a figure."""

    low: float
    """A quarter of the values are at most this."""
    median: float
    high: float
    """A quarter of the values are at least this."""

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Measure the spread of one value or more; between two values quartiles are interpolated linearly."""
        assert values, "no values"
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        return Spread(*statistics.quantiles(values, n=4, method="inclusive"))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Give the lower and the upper quartile."""
        return self.low, self.high


def spread_of_ratios(values: Sequence[float], references: Sequence[float]) -> Spread:
    """Measure the spread of reference over value, each pair of the same round: drifts of the machine fall out."""
    return Spread.of([reference / value for value, reference in zip(values, references, strict=True)])
