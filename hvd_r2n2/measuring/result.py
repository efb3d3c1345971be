"""What was measured of an arm, and the figures that follow from it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.common.statistics import Spread, spread_of_ratios
from hvd_r2n2.measuring.arms import BOUND, ONE_DEVICE, ArmSpec
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.operations import Profile
from hvd_r2n2.split import TaskTime

_UNDISTURBED = 0.95
"""Share of its time for which a process that only computes is on a processor, at least."""


def step_s(processes: Sequence[Done]) -> float:
    """Return how long a step took: from the start of the first process to the end of the last."""
    return max(done.end_s for done in processes) - min(done.start_s for done in processes)


@dataclass(frozen=True)
class ArmResult:
    """The measured steps of an arm."""

    arm: ArmSpec
    devices: tuple[str, ...]
    notes: tuple[str, ...]
    """What its engine said of its choices."""
    samples: int
    """Of a step, all processes together."""
    steps: tuple[tuple[Done, ...], ...]
    """By round and process."""
    trials: Mapping[int, float] = field(default_factory=dict)
    """By number of micro-batches that was tried before: the median step in seconds."""
    predicted_s: float | None = None
    """What the planner said of a step before."""
    profile: Profile | None = None
    """Where the time of another step went, if one was profiled."""

    @property
    def times_s(self) -> list[float]:
        """How long each step took."""
        return [step_s(step) for step in self.steps]

    @property
    def memory(self) -> tuple[DeviceMemory, ...]:
        """Give what each device held in the step in which it held most."""
        by_step = [[memory for done in step for memory in done.memory] for step in self.steps]
        return tuple(max(device, key=lambda memory: memory.peak_bytes) for device in zip(*by_step, strict=True))

    @property
    def typical_step(self) -> tuple[Done, ...]:
        """Give the step nearest to the median."""
        median = Spread.of(self.times_s).median
        return min(self.steps, key=lambda step: abs(step_s(step) - median))

    @property
    def tasks(self) -> tuple[TaskTime, ...]:
        """Give what a split did in its typical step."""
        return self.typical_step[0].tasks

    @property
    def busy(self) -> tuple[float, ...]:
        """Give, of a split, the share of its typical step in which each device worked."""
        total = step_s(self.typical_step)
        return tuple(
            sum(task.end_s - task.start_s for task in self.tasks if task.device == device) / total
            for device in range(len(self.devices) if self.tasks else 0)
        )


def entries(results: Sequence[ArmResult], num_views: int) -> list[dict[str, Any]]:
    """Return the figures of each arm as plain data.

    Speed-ups are of throughput (samples a second): an arm may have more samples a step than one device.
    """
    by_name = {result.arm.name: result for result in results}
    one, bound = by_name.get(ONE_DEVICE), by_name.get(BOUND)
    return [_entry(result, one, bound, num_views) for result in results]


def bound_of(results: Sequence[ArmResult]) -> float | None:
    """Return the throughput of independent copies over that of one device; None if one of the two was not measured."""
    by_name = {result.arm.name: result for result in results}
    if not {ONE_DEVICE, BOUND} <= by_name.keys():
        return None
    return _speedup(by_name[BOUND], by_name[ONE_DEVICE])


def is_disturbed(results: Sequence[ArmResult]) -> list[str]:
    """Name the arms of plain processes with one thread each that did not have a processor for each of them.

    Other programs have taken some of it then, and no figure of the run can be trusted.
    """
    found = []
    for result in results:
        if result.arm.name in (ONE_DEVICE, BOUND):
            shares = [done.cpu_s / (done.end_s - done.start_s) for step in result.steps for done in step]
            if statistics.median(shares) < _UNDISTURBED:
                found.append(result.arm.name)
    return found


def _entry(result: ArmResult, one: ArmResult | None, bound: ArmResult | None, num_views: int) -> dict[str, Any]:
    times, memory = Spread.of(result.times_s), result.memory
    speedup = None if one is None else _speedup(result, one)
    spread = None if one is None else spread_of_ratios(_per_sample(result), _per_sample(one))
    entry = {
        "name": result.arm.name,
        "kind": result.arm.kind,
        "processes": result.arm.processes,
        "devices": list(result.devices),
        "settings": list(result.arm.overrides),
        "notes": list(result.notes),
        "samples_per_step": result.samples,
        "median_s": times.median,
        "quartiles_s": list(times.quartiles),
        "times_s": result.times_s,
        "processor_s": statistics.median(sum(done.cpu_s for done in step) for step in result.steps),
        "images_per_s": result.samples * num_views / times.median,
        "speedup": speedup,
        "speedup_quartiles": None if spread is None else list(spread.quartiles),
        "efficiency": None if speedup is None else speedup / len(result.devices),
        "of_bound": None if bound is None or speedup is None or one is None else speedup / _speedup(bound, one),
        "peak_memory_bytes": max(device.peak_bytes for device in memory),
        "memory_by_device": [asdict(device) | {"peak": device.peak_bytes} for device in memory],
        "trials_s": {str(count): seconds for count, seconds in result.trials.items()},
    }
    if result.predicted_s is not None:
        error = result.predicted_s / times.median - 1
        entry |= {"predicted_s": result.predicted_s, "prediction_error": error}
    if result.tasks:
        entry |= {"busy_by_device": list(result.busy), "bytes_moved": result.typical_step[0].bytes_moved}
    if result.arm.kind in ("ddp", "horovod"):
        entry |= _communication(result)
    return entry


def _communication(result: ArmResult) -> dict[str, Any]:
    """Return what was waited for gradients: by the last rank (what is exposed), and by all on average."""
    exposed = Spread.of([min(done.communication_s for done in step) for step in result.steps])
    waited = [statistics.fmean(done.communication_s for done in step) for step in result.steps]
    return {
        "exposed_communication_s": exposed.median,
        "exposed_communication_quartiles_s": list(exposed.quartiles),
        "waiting_s": statistics.median(waited),
    }


def _per_sample(result: ArmResult) -> list[float]:
    return [seconds / result.samples for seconds in result.times_s]


def _speedup(result: ArmResult, one: ArmResult) -> float:
    return Spread.of(_per_sample(one)).median / Spread.of(_per_sample(result)).median
