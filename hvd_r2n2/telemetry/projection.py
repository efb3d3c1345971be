"""How long the steps still to come will take, and afterwards how long they took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

_STEPS = 3
"""Of each number of views, after its first one, which also makes memory, chooses kernels or captures a graph."""
_LONG_S = 600
"""From which on hours and minutes are told instead of seconds."""


class Projection:
    """Says, after the first steps of every number of views, how long the others will take, and at the end the truth.

    The number of views of each step is taken to be drawn uniformly. Only steps are counted, with the waiting for their
    data: evaluations, checkpoints and pictures come on top.
    """

    def __init__(self, view_counts: Iterable[int], last_step: int) -> None:
        """Begin; steps have one of `view_counts` views, and end with `last_step`."""
        self._times_s: dict[int, list[float]] = {num_views: [] for num_views in view_counts}
        self._last_step = last_step
        self._projected_s: float | None = None
        self._num_projected, self._true_s = 0, 0.0

    def add(self, step: int, num_views: int, step_s: float) -> str | None:
        """Take in step number `step` (from 1); return what is to be said after it, if anything is."""
        if self._projected_s is not None:
            self._true_s += step_s
            return self._compared(self._projected_s) if step == self._last_step else None
        self._times_s[num_views].append(step_s)
        self._num_projected = self._last_step - step
        if not self._num_projected or any(len(times) <= _STEPS for times in self._times_s.values()):
            return None
        step_mean_s = statistics.fmean(statistics.median(times[1:]) for times in self._times_s.values())
        self._projected_s = step_mean_s * self._num_projected
        return (
            f"about {_duration(self._projected_s)} for the {self._num_projected:,} steps still to come, at the present "
            "rate; evaluations and checkpoints come on top"
        )

    def _compared(self, projected_s: float) -> str:
        return (
            f"the last {self._num_projected:,} steps took {_duration(self._true_s)}, where "
            f"{_duration(projected_s)} had been projected; evaluations and checkpoints came on top"
        )


def _duration(seconds: float) -> str:
    if seconds < _LONG_S:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"
