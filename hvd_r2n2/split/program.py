"""A step of a split network as pure data: which device computes what, from what, in which order.

stages + strategy + sizes  ->  Program: pieces, their calls, and each device's order of tasks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hvd_r2n2.common.stages import NamedTensor

LOSS = "loss"
"""The name of the tensor that the last stage gives."""

Kind = Literal["forward", "backward", "weights"]
"""What a task does of a call: its forward run, its backward run, or, where these are left out of the backward run, the
gradients of its weights."""


@dataclass(frozen=True)
class Key:
    """Name a tensor of one step, whole or one part of it."""

    tensor: str
    """Its name in the stages."""
    micro_batch: int
    """Whose samples it holds."""
    chunk: int | None = None
    """Whose views it holds; of a fold's output, the last of them. None where views no longer matter."""
    part: int | None = None
    """Which part it is, None for the whole tensor."""


@dataclass(frozen=True)
class Range:
    """Positions along an axis: `length` of them from `start`, which counts from the end if negative."""

    start: int
    length: int


@dataclass(frozen=True)
class Share:
    """The part-th of `parts` nearly equal shares of an axis: positions size·part//parts to size·(part+1)//parts."""

    part: int
    parts: int


@dataclass(frozen=True)
class Fragment:
    """Some of a value, cut along one axis; or, without a key, zeros of the size of `span` (a Range)."""

    key: Key | None
    axis: str | None = None
    """Letter of the axis that `span` is of; None takes the whole value."""
    span: Range | Share | None = None


@dataclass(frozen=True)
class Input:
    """One input of a call: fragments side by side along an axis; none at all for a fold's missing state."""

    tensor: NamedTensor
    fragments: tuple[Fragment, ...]
    axis: str | None = None
    """Letter of the axis they stand along; None for a single one."""


@dataclass(frozen=True)
class Piece:
    """Consecutive stages, or the same part of each, whose weights lie on one device."""

    name: str
    stages: tuple[str, ...]
    device: int
    """Number of the device in the placement."""
    cut: Literal["channels", "planes", "samples"] | None = None
    """What its outputs are a part of: channels (or features), planes of the grid, or the samples or views."""
    part: int = 0
    parts: int = 1
    weights_later: bool = False
    """Whether its backward run gives the gradients of its inputs alone, for which another device waits; those of its
    weights are then a task of their own."""

    @property
    def is_part(self) -> bool:
        """Whether other pieces compute the rest of the same stages."""
        return self.parts > 1


@dataclass(frozen=True)
class Call:
    """One forward run of a piece, and its backward run.

    Of a piece cut by channels or planes, which has a single stage, `inputs` has one entry for each of its reads, in
    order. Of any other piece, one for each tensor that its stages read and none of them makes before.
    """

    piece: Piece
    micro_batch: int
    chunk: int | None
    inputs: tuple[Input, ...]
    outputs: tuple[Key, ...]
    weight: float = 0.0
    """Of a call that gives a loss: its share of the step's loss."""

    @property
    def name(self) -> str:
        """Name it for people."""
        view = "" if self.chunk is None else f" v{self.chunk}"
        return f"{self.piece.name} m{self.micro_batch}{view}"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Give the kinds of its runs, in their order."""
        return ("forward", "backward", "weights") if self.piece.weights_later else ("forward", "backward")

    def reads(self) -> list[Key]:
        """Give the keys that it reads."""
        return [f.key for tensor in self.inputs for f in tensor.fragments if f.key is not None]


@dataclass(frozen=True)
class Task:
    """One run of a call."""

    call: int
    """Its number in the program."""
    kind: Kind


@dataclass(frozen=True)
class Program:
    """Everything that one step does.

    Network inputs (pictures, targets) are keys that no call gives, always without a part: of a micro-batch's samples,
    and of a chunk's views where the tensor has a view axis.
    """

    strategy: str
    num_devices: int
    micro_batches: tuple[int, ...]
    """Samples of each."""
    chunks: tuple[int, ...]
    """Views of each chunk, all views together."""
    calls: tuple[Call, ...]
    """In an order in which one device could run them."""
    orders: tuple[tuple[Task, ...], ...] = field(repr=False)
    """Each device's tasks."""

    @cached_property
    def producers(self) -> dict[Key, int]:
        """Number of the call that gives a key."""
        return {key: number for number, call in enumerate(self.calls) for key in call.outputs}

    @cached_property
    def consumers(self) -> dict[Key, tuple[tuple[int, int, int], ...]]:
        """Where a key that a call gives is read: (call, input, fragment), in the order of the calls."""
        found: dict[Key, list[tuple[int, int, int]]] = {key: [] for key in self.producers}
        for number, call in enumerate(self.calls):
            for i, tensor in enumerate(call.inputs):
                for f, fragment in enumerate(tensor.fragments):
                    if fragment.key in found:
                        found[fragment.key].append((number, i, f))
        return {key: tuple(places) for key, places in found.items()}

    @cached_property
    def shared_inputs(self) -> dict[Input, int]:
        """Inputs put together of several values that calls of several devices want alike, and how many calls do."""
        found: dict[Input, list[int]] = {}
        for call in self.calls:
            for entry in call.inputs:
                if len(entry.fragments) > 1 and all(fragment.key in self.producers for fragment in entry.fragments):
                    found.setdefault(entry, []).append(call.piece.device)
        return {entry: len(devices) for entry, devices in found.items() if len(set(devices)) > 1}

    @cached_property
    def last_backward(self) -> dict[str, int]:
        """By piece: number of the call whose backward run is its last."""
        found = [task for order in self.orders for task in order if task.kind == "backward"]
        return {self.calls[task.call].piece.name: task.call for task in found}

    @cached_property
    def completing(self) -> dict[Task, str]:
        """The task after which a piece's gradients are whole, and the piece's name."""
        last = {self.calls[task.call].piece.name: task for order in self.orders for task in order}
        return {task: piece for piece, task in last.items()}

    def device_of(self, task: Task) -> int:
        """Give the device that runs a task."""
        return self.calls[task.call].piece.device

    def needs(self, task: Task) -> list[Task]:
        """Give the tasks that must have ended before: for a backward run, its consumers' and its own forward run."""
        return self._needs[task]

    @cached_property
    def _needs(self) -> dict[Task, list[Task]]:
        found = {}
        for number, call in enumerate(self.calls):
            producers = [Task(self.producers[key], "forward") for key in call.reads() if key in self.producers]
            consumers = [Task(reader, "backward") for key in call.outputs for reader, _, _ in self.consumers[key]]
            found[Task(number, "forward")] = producers
            found[Task(number, "backward")] = [Task(number, "forward"), *consumers]
            found[Task(number, "weights")] = [Task(number, "backward")]
        return found

    def check(self) -> None:
        """Assert that every call has each of its runs once, that losses add up and no orders block one another."""
        everything = [task for order in self.orders for task in order]
        expected = {Task(number, kind) for number, call in enumerate(self.calls) for kind in call.kinds}
        assert len(everything) == len(expected), "tasks missing or twice"
        assert set(everything) == expected, "tasks of no call"
        for device, order in enumerate(self.orders):
            assert all(self.device_of(task) == device for task in order), "a task on another device"
        assert abs(sum(call.weight for call in self.calls) - 1) < 1e-9, "losses do not add up"
        runnable = set(run_in_order(self))
        blocked = [self.calls[task.call].name for task in everything if task not in runnable]
        assert not blocked, f"orders block one another at {blocked[:4]}"


def run_in_order(program: Program) -> list[Task]:
    """Give the tasks in an order in which one worker could run them; fewer than all where orders block one another."""
    done: dict[Task, None] = {}
    positions = [0] * program.num_devices
    moved = True
    while moved:
        moved = False
        for device, order in enumerate(program.orders):
            while positions[device] < len(order) and all(t in done for t in program.needs(order[positions[device]])):
                done[order[positions[device]]] = None
                positions[device] += 1
                moved = True
    return list(done)


def spread(total: int, parts: int) -> tuple[int, ...]:
    """Cut a number into nearly equal whole ones, the larger first."""
    return tuple(total // parts + (number < total % parts) for number in range(parts))


def one_at_a_time(calls: Sequence[Call], num_devices: int) -> tuple[tuple[Task, ...], ...]:
    """Order tasks so that each micro-batch goes forward and backward before the next one starts."""
    orders: list[list[Task]] = [[] for _ in range(num_devices)]
    for micro_batch in dict.fromkeys(call.micro_batch for call in calls):
        numbers = [number for number, call in enumerate(calls) if call.micro_batch == micro_batch]
        for number in numbers:
            orders[calls[number].piece.device].append(Task(number, "forward"))
        for number in reversed(numbers):
            orders[calls[number].piece.device] += [Task(number, kind) for kind in calls[number].kinds[1:]]
    return tuple(map(tuple, orders))


@dataclass(frozen=True)
class TaskTime:
    """When something ran on a device, measured or predicted; seconds from the start of the step."""

    label: str
    device: int
    kind: Kind | Literal["optimizer"]
    micro_batch: int
    start_s: float
    end_s: float
