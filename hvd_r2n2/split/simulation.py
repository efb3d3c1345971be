"""Plays a program with what its calls cost: when every run starts and ends, and what devices hold meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.program import Program, Task, TaskTime


@dataclass(frozen=True)
class Played:
    """What a step comes to, up to its gradients."""

    tasks: tuple[TaskTime, ...]
    """In the order in which they end."""
    saved_bytes: tuple[float, ...]
    """Most that each device holds for backward at a time."""
    bytes_moved: float
    """Across the split."""

    @property
    def seconds(self) -> float:
        """Give when the last run ends."""
        return self.tasks[-1].end_s


def simulate(program: Program, costs: Costs) -> Played:
    """Play a step: every device takes its tasks in their order, each as soon as what it needs is there.

    A run takes longer while other devices are at work too: by `Machine.slowdowns` when all of them are, and by less in
    proportion when only some are.
    """
    return _Play(program, costs).to_the_end()


@dataclass
class _Running:
    """A run that has begun."""

    task: Task
    start_s: float
    left_s: float
    """What remains of it, for a device that is alone at work."""


class _Play:
    def __init__(self, program: Program, costs: Costs) -> None:
        self._program, self._costs, self._needs = program, costs, program.needs
        self._position = [0] * program.num_devices
        self._free_s = [0.0] * program.num_devices
        self._running: dict[int, _Running] = {}
        self._ends: dict[Task, float] = {}
        self._held, self._peak = [0.0] * program.num_devices, [0.0] * program.num_devices
        self._times: list[TaskTime] = []
        self._now = self._moved = 0.0

    def to_the_end(self) -> Played:
        """Go from event to event: a run starts, or a run ends."""
        num_tasks = sum(map(len, self._program.orders))
        while len(self._times) < num_tasks:
            starts = {device: start for device in range(self._program.num_devices) if (start := self._start(device))}
            slow = self._slowdown()
            ends = {device: self._now + run.left_s * slow for device, run in self._running.items()}
            assert starts or ends, "orders block one another"
            # At the same moment an end comes first: what waits for it may start then.
            device = min(ends, key=ends.__getitem__) if ends else -1
            starting = min(starts, key=lambda one: starts[one][0]) if starts else -1
            if ends and (not starts or ends[device] <= starts[starting][0]):
                self._go_on(ends[device], slow)
                self._end(device)
            else:
                start_s, task = starts[starting]
                self._go_on(start_s, slow)
                self._begin(starting, task)
        return Played(tuple(self._times), tuple(self._peak), self._moved)

    def _start(self, device: int) -> tuple[float, Task] | None:
        """Say which run an idle device begins next, and when; None if that is not known yet."""
        order, position = self._program.orders[device], self._position[device]
        if device in self._running or position == len(order):
            return None
        start_s = self._free_s[device]
        for need in self._needs(order[position]):
            if need not in self._ends:
                return None
            is_other = self._program.device_of(need) != device
            start_s = max(start_s, self._ends[need] + self._costs.machine.handover_s * is_other)
        return max(start_s, self._now), order[position]

    def _slowdown(self) -> float:
        others = max(1, self._program.num_devices - 1)
        factor = self._costs.machine.slowdown(self._program.strategy)
        return 1 + (factor - 1) * (len(self._running) - 1) / others

    def _go_on(self, until_s: float, slowdown: float) -> None:
        for run in self._running.values():
            run.left_s -= (until_s - self._now) / slowdown
        self._now = until_s

    def _begin(self, device: int, task: Task) -> None:
        cost = self._costs.of(self._program, task)
        self._running[device] = _Running(task, self._now, cost.seconds)
        self._peak[device] = max(self._peak[device], self._held[device] + cost.peak_bytes)
        self._held[device] += cost.held_bytes
        self._moved += self._costs.moved_bytes(self._program, task)

    def _end(self, device: int) -> None:
        run = self._running.pop(device)
        call = self._program.calls[run.task.call]
        self._times.append(TaskTime(call.name, device, run.task.kind, call.micro_batch, run.start_s, self._now))
        self._ends[run.task] = self._now
        self._free_s[device] = self._now + self._costs.machine.task_s
        self._position[device] += 1


def slowdown(spans: Sequence[Sequence[tuple[float, float]]], alone_s: float) -> float:
    """Give by how much runs are slower while all devices are at work, as `simulate` wants it; at least 1.

    Args:
        spans: by device, when its runs began and ended.
        alone_s: what the same runs take together when one is done after another.
    """
    events = sorted(
        (moment, change) for own in spans for span in own for moment, change in zip(span, (1, -1), strict=True)
    )
    at_work, busy_s, shared_s = 0, 0.0, 0.0
    for (moment, change), (following, _) in pairwise(events):
        at_work += change
        busy_s += at_work * (following - moment)
        shared_s += at_work * (at_work - 1) / max(1, len(spans) - 1) * (following - moment)
    return max(1.0, 1 + (busy_s / alone_s - 1) * busy_s / shared_s) if shared_s else 1.0


def busy_shares(tasks: Sequence[TaskTime], num_devices: int) -> tuple[float, ...]:
    """Give, of measured or predicted times, the share of a step that each device computes gradients in.

    The step goes here from its first run to its last gradient; averaging over ranks and the optimizer are left out.
    """
    runs = [task for task in tasks if task.kind != "optimizer"]
    span_s = max(task.end_s for task in runs) - min(task.start_s for task in runs)
    busy_s = [sum(task.end_s - task.start_s for task in runs if task.device == device) for device in range(num_devices)]
    return tuple(busy / span_s if span_s else 0.0 for busy in busy_s)


def bubble_share(tasks: Sequence[TaskTime], num_devices: int) -> float:
    """Give the share of all devices' time together in which they wait."""
    return 1 - sum(busy_shares(tasks, num_devices)) / num_devices
