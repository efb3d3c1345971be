"""Medians and quartiles against values computed by hand."""

from __future__ import annotations

import pytest

from hvd_r2n2.common.statistics import Spread, spread_of_ratios


@pytest.mark.parametrize(
    ("values", "low", "median", "high"),
    [
        ([3.0], 3, 3, 3),
        ([1.0, 2.0], 1.25, 1.5, 1.75),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 2, 3, 4),
        ([1.0, 2.0, 3.0, 100.0], 1.75, 2.5, 27.25),
    ],
)
def test_spread(values: list[float], low: float, median: float, high: float) -> None:
    assert Spread.of(values) == Spread(low, median, high)
    assert Spread.of(values).quartiles == (low, high)


def test_ratios_are_of_the_same_round() -> None:
    # The machine was half as fast in the second round, for both.
    assert spread_of_ratios([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]) == Spread(2, 2, 2)
