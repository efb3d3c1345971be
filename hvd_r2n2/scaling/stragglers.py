"""What waiting for the slowest rank costs: every step ends when the last one does."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

_STEPS = 2000
_FARTHEST = 8.0


@lru_cache
def expected_maximum(num_ranks: int) -> float:
    """Return the mean of the largest of so many independent standard normal numbers.

    That is the integral of 1 - F(x)^n above 0 less that of F(x)^n below it, F being the normal distribution. 0 for one,
    1/sqrt(pi) for two, 3.04 for 512.
    """
    normal, width = NormalDist(), _FARTHEST / _STEPS
    middles = [(number + 0.5) * width for number in range(_STEPS)]
    above = sum(1 - normal.cdf(x) ** num_ranks for x in middles)
    below = sum(normal.cdf(-x) ** num_ranks for x in middles)
    return (above - below) * width


def straggler_s(compute_s: float, spread: float, num_ranks: int) -> float:
    """Return by how much the slowest rank is expected to be later than the mean.

    Args:
        compute_s: mean time of the ranks' own arithmetic.
        spread: its standard deviation, as a share of it. That it is normal and new in every step is an assumption: a
            rank that is always slow sets the pace for all.
        num_ranks: how many there are.
    """
    return spread * compute_s * expected_maximum(num_ranks) if num_ranks > 1 else 0.0
