"""Figures of arms, against values computed by hand."""

from __future__ import annotations

import pytest

from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.result import ArmResult, bound_of, entries, is_disturbed, step_s
from hvd_r2n2.measuring.rounds import rotated
from hvd_r2n2.split import TaskTime


def done(
    start_s: float, end_s: float, *, waited_s: float = 0.0, saved: int = 10, tasks: tuple[TaskTime, ...] = ()
) -> Done:
    memory = (DeviceMemory(1, 1, 2, saved),) * (2 if tasks else 1)
    return Done(start_s, end_s, end_s - start_s, waited_s, memory, 1000, 1000, tasks, 64 if tasks else 0)


def result(arm: ArmSpec, times_s: list[float], samples: int = 8) -> ArmResult:
    steps = tuple((done(0.0, seconds),) * arm.processes for seconds in times_s)
    return ArmResult(arm, tuple(f"cpu:{rank}" for rank in range(arm.processes)), (), samples, steps)


ONE = result(ArmSpec("one-device"), [4.0, 2.0, 3.0])
BOUND = result(ArmSpec("bound", kind="copies", processes=2), [4.0, 2.0, 4.0], samples=16)


def test_step_of_several_processes_lasts_from_the_first_start_to_the_last_end() -> None:
    assert step_s([done(1.0, 3.0), done(1.5, 4.0)]) == 3.0


def test_bound_is_the_throughput_of_two_copies_over_that_of_one() -> None:
    assert bound_of([ONE, BOUND]) == 2 * 3.0 / 4.0
    assert bound_of([BOUND]) is None


def test_figures_of_arms() -> None:
    kernel = result(ArmSpec("kernel", overrides=("split.strategy=kernel",)), [2.0, 2.5, 1.0])
    one, bound, split = entries([ONE, BOUND, kernel], num_views=3)
    assert (one["speedup"], one["median_s"], one["quartiles_s"]) == (1.0, 3.0, [2.5, 3.5])
    assert (bound["speedup"], bound["of_bound"], bound["samples_per_step"]) == (1.5, 1.0, 16)
    assert (split["speedup"], split["of_bound"]) == (1.5, 1.0)
    assert split["speedup_quartiles"] == [1.4, 2.5]  # of 4/2, 2/2.5 and 3/1
    assert split["images_per_s"] == 8 * 3 / 2.0
    assert split["peak_memory_bytes"] == 14
    assert split["settings"] == ["split.strategy=kernel"]


def test_without_one_device_there_are_no_speedups() -> None:
    (bound,) = entries([BOUND], num_views=1)
    assert (bound["speedup"], bound["of_bound"], bound["speedup_quartiles"], bound["efficiency"]) == (None,) * 4


def test_busy_share_and_tasks_are_those_of_the_step_nearest_the_median() -> None:
    tasks = (
        TaskTime("a", 0, "forward", 0, 0.0, 1.0),
        TaskTime("a", 0, "backward", 0, 2.0, 3.0),
        TaskTime("b", 1, "forward", 0, 1.0, 2.0),
    )
    steps = ((done(0.0, 9.0),), (done(0.0, 4.0, tasks=tasks),), (done(0.0, 1.0),))
    split = ArmResult(ArmSpec("pipeline"), ("cpu:0", "cpu:1"), (), 8, steps)
    assert split.tasks == tasks
    assert split.busy == (0.5, 0.25)


def test_memory_is_that_of_the_step_that_needed_most() -> None:
    steps = tuple((done(0.0, 1.0, saved=saved),) for saved in (10, 30, 20))
    assert ArmResult(ArmSpec("one-device"), ("cpu:0",), (), 8, steps).memory == (DeviceMemory(1, 1, 2, 30),)


def test_exposed_communication_is_what_the_last_rank_waits() -> None:
    arm = ArmSpec("ddp", kind="ddp", processes=2)
    steps = tuple((done(0.0, 2.0, waited_s=wait), done(0.0, 2.0, waited_s=3 * wait)) for wait in (0.1, 0.2, 0.4))
    (entry,) = entries([ArmResult(arm, ("cpu:0", "cpu:1"), (), 8, steps)], num_views=1)
    assert entry["exposed_communication_s"] == pytest.approx(0.2)
    assert entry["waiting_s"] == pytest.approx(0.4)


def test_every_arm_comes_at_every_place() -> None:
    rounds = [rotated(["a", "b", "c"], number) for number in range(3)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert rotated(["a", "b", "c"], 4) == rounds[1]


def test_arms_that_had_to_share_their_processors_are_named() -> None:
    slow = Done(0.0, 2.0, 1.5, 0.0, (DeviceMemory(1, 1, 2, 10),), 1000, 1000)
    assert is_disturbed([ONE, BOUND]) == []
    assert is_disturbed([ArmResult(ArmSpec("one-device"), ("cpu:0",), (), 8, ((slow,),) * 3), BOUND]) == ["one-device"]
