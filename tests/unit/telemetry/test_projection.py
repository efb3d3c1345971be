"""What is projected, against values worked out by hand."""

from __future__ import annotations

from hvd_r2n2.telemetry import Projection


def test_projection_is_the_mean_over_numbers_of_views_of_their_median() -> None:
    projection = Projection([1, 2], last_step=110)
    views = [1, 2, 1, 1, 1, 2, 2]
    times = [90.0, 80.0, 2.0, 9.0, 3.0, 5.0, 7.0]  # the first of each number of views does not count
    for step, (num_views, step_s) in enumerate(zip(views, times, strict=True), start=1):
        assert projection.add(step, num_views, step_s) is None
    # The medians are 3 s and 6 s.
    told = projection.add(8, 2, 6.0)
    assert told is not None
    assert told.startswith("about 459.0 s for the 102 steps still to come, at the present rate")
    for step in range(9, 110):
        assert projection.add(step, 1, 8.0) is None
    told = projection.add(110, 1, 12.0)
    assert told is not None
    assert told.startswith("the last 102 steps took 0:14 h, where 459.0 s had been projected")


def test_hours_and_minutes_are_told_of_long_runs() -> None:
    projection = Projection([3], last_step=60_000)
    told = [projection.add(step, 3, 0.1) for step in range(1, 5)]
    assert told[:3] == [None] * 3
    assert told[3] is not None
    assert told[3].startswith("about 1:40 h for the 59,996 steps still to come")


def test_nothing_is_said_of_a_run_that_is_too_short() -> None:
    projection = Projection([1], last_step=4)
    assert [projection.add(step, 1, 1.0) for step in range(1, 5)] == [None] * 4
    projection = Projection([1, 2], last_step=50)
    assert [projection.add(step, 1, 1.0) for step in range(1, 51)] == [None] * 50
