"""What calls cost on a machine, as data, and what a program comes to: each run's time and what devices hold.

The work of a call is counted in samples, of a stage that treats each view in pictures (samples times views). Of a fold
stage every cost is that of one view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from statistics import fmean
from typing import Literal

from torch import Tensor

from hvd_r2n2.common.stages import NamedTensor, Stage
from hvd_r2n2.split.program import Call, Fragment, Input, Key, Kind, Piece, Program, Range, Share, Task
from hvd_r2n2.split.rehearsal import Take


@dataclass(frozen=True)
class Part:
    """Say of what a cost is: of stages, or of one part of them."""

    stages: tuple[str, ...]
    cut: str | None = None
    part: int = 0
    parts: int = 1
    weights_later: bool = False

    @staticmethod
    def of(piece: Piece) -> Part:
        """Give what a piece computes, wherever it does."""
        if piece.is_part:
            return Part(piece.stages, piece.cut, piece.part, piece.parts)
        return Part(piece.stages, weights_later=piece.weights_later)


@dataclass(frozen=True)
class Point:
    """What a call was found to cost."""

    work: float
    forward_s: float
    backward_s: float
    saved_bytes: float
    """Held for backward, beside what earlier calls of the device hold anyway."""
    shared_bytes: float
    """Further bytes that it holds together with earlier calls."""
    weights_s: float = 0.0
    """Of the gradients of weights, where they are apart from backward."""

    def seconds(self, kind: Kind) -> float:
        """Give the time of a run."""
        return {"forward": self.forward_s, "backward": self.backward_s, "weights": self.weights_s}[kind]


@dataclass(frozen=True)
class PartCosts:
    """What a part costs by its work."""

    points: tuple[Point, ...]
    """At least one, in the order of work."""
    last_s: float = 0.0
    """More in the last micro-batch's backward run: what is done once a step."""

    def at(self, work: float) -> Point:
        """Give the costs of some work: on lines through the points, and in proportion beyond the last one.

        Before the first point costs go down as between the first two, since part of them does not depend on work, but
        not below proportion.
        """
        first, last = self.points[0], self.points[-1]
        if work >= last.work or len(self.points) == 1:
            return _between(_NOTHING, last, work)
        if work < first.work:
            line, proportion = _between(first, self.points[1], work), _between(_NOTHING, first, work)
            bounded = zip(_values(line), _values(proportion), _values(first), strict=True)
            return Point(work, *(min(max(value, low), high) for value, low, high in bounded))
        after = next(number for number, point in enumerate(self.points) if work < point.work)
        return _between(self.points[after - 1], self.points[after], work)


_NOTHING = Point(0, 0, 0, 0, 0)


def _values(point: Point) -> tuple[float, float, float, float, float]:
    return point.forward_s, point.backward_s, point.saved_bytes, point.shared_bytes, point.weights_s


def _between(one: Point, other: Point, work: float) -> Point:
    """Give the point of some work on the line through two."""
    share = (work - one.work) / (other.work - one.work)
    return Point(work, *(a + (b - a) * share for a, b in zip(_values(one), _values(other), strict=True)))


@dataclass(frozen=True)
class Machine:
    """What does not depend on the network; by default, a machine where nothing but the calls takes time."""

    slowdowns: Mapping[str, float] = field(default_factory=dict)
    """By strategy: factor on the time of a run while all other devices are at work too. Where a strategy's is not known
    it is taken as the mean of the others, where none is known as 1."""
    task_s: float = 0.0
    """Between two runs on a device."""
    handover_s: float = 0.0
    """From the end of a run to the start of one on another device that has waited for it."""
    copy_s_per_byte: float = 0.0
    """From one device to another; 0 where they share memory."""
    exchange_s_per_byte: float = 0.0
    """Averaging gradients between processes that have a device each."""
    norm_s_per_byte: float = 0.0
    """Norm of the whole gradient, which is taken before the weights are moved."""
    update_s_per_byte: float = 0.0
    """Moving weights, by the bytes of the weights."""
    state_bytes_per_byte: float = 0.0
    """The optimizer's state, by the bytes of the weights."""
    memory_bytes: int | None = None
    """What each device has, or all together if it is shared; None if it is not known."""
    memory_is_shared: bool = False
    """Whether the devices have their memory together, as logical ones have."""

    def slowdown(self, strategy: str) -> float:
        """Give the factor of a strategy."""
        return self.slowdowns.get(strategy, fmean(self.slowdowns.values() or [1.0]))


@dataclass(frozen=True)
class TensorSize:
    """How large a tensor between stages is."""

    lengths: Mapping[str, int]
    """Of its axes, but for samples and views."""
    element_bytes: int


@dataclass(frozen=True)
class RunCost:
    """What one run of a call costs."""

    seconds: float
    held_bytes: float
    """By how much what the device holds for backward has changed at its end."""
    peak_bytes: float
    """Most that it holds in its course beside what was there before."""


@dataclass(frozen=True)
class Costs:
    """Everything that is known of a network on a machine."""

    parts: Mapping[Part, PartCosts]
    views: Mapping[str, Literal["each", "fold", "none"]]
    """How each stage treats views."""
    tensors: Mapping[str, TensorSize] = field(default_factory=dict)
    """Those between stages."""
    machine: Machine = field(default_factory=Machine)
    recompute: bool = False
    """Whether a call keeps only its inputs for backward, and computes the rest again there."""

    @property
    def have_weights_apart(self) -> bool:
        """Whether it is known what gradients of weights take apart from backward runs."""
        return any(part.weights_later for part in self.parts)

    def of(self, program: Program, task: Task) -> RunCost:
        """Give the costs of a run; those of moving what other devices have made are in its seconds."""
        call = program.calls[task.call]
        points = self._points(program, call)
        seconds = sum(point.seconds(task.kind) for point in points)
        if task.kind == "backward" and program.last_backward[call.piece.name] == task.call:
            seconds += sum(self.parts[part].last_s for part in self._members(call.piece))
        seconds += self.moved_bytes(program, task) * self.machine.copy_s_per_byte
        saved = sum(point.saved_bytes for point in points)
        if not any(program.device_of(need) == call.piece.device for need in program.needs(Task(task.call, "forward"))):
            saved += points[0].shared_bytes
        is_last = task.kind == call.kinds[-1]
        if task.kind == "weights":
            return RunCost(seconds, -saved, 0.0)
        if not self.recompute:
            return RunCost(seconds, saved, saved) if task.kind == "forward" else RunCost(seconds, -saved * is_last, 0.0)
        kept = sum(self._bytes(program, entry, f) for entry in call.inputs for f in entry.fragments)
        if task.kind == "forward":
            return RunCost(seconds, kept, kept)
        return RunCost(seconds + sum(point.forward_s for point in points), saved * (not is_last) - kept, saved)

    def moved_bytes(self, program: Program, task: Task) -> float:
        """Give the bytes that a run takes from other devices: values of its inputs, or gradients of its outputs."""
        call, device = program.calls[task.call], program.device_of(task)
        if task.kind == "weights":
            return 0.0
        is_backward = task.kind == "backward"
        places = (
            [place for key in call.outputs for place in program.consumers[key]]
            if is_backward
            else [(task.call, i, f) for i, entry in enumerate(call.inputs) for f in range(len(entry.fragments))]
        )
        total = 0.0
        for number, i, f in places:
            entry = program.calls[number].inputs[i]
            key = entry.fragments[f].key
            other = number if is_backward else None if key is None else program.producers.get(key)
            if other is not None and program.calls[other].piece.device != device:
                total += self._bytes(program, entry, entry.fragments[f])
        return total

    def _points(self, program: Program, call: Call) -> list[Point]:
        """Give what each measured part of a call costs."""
        points = []
        for part in self._members(call.piece):
            work, runs = work_of(program, call, self.views[part.stages[0]])
            points.append(_times(self.parts[part].at(work), runs))
        return points

    def _members(self, piece: Piece) -> list[Part]:
        """Give the parts whose costs are known that a piece is made of."""
        if piece not in self._found_members:
            self._found_members[piece] = self._find_members(piece)
        return self._found_members[piece]

    @cached_property
    def _found_members(self) -> dict[Piece, list[Part]]:
        return {}

    def _find_members(self, piece: Piece) -> list[Part]:
        whole = Part.of(piece)
        if whole in self.parts:
            return [whole]
        fitting = [part for part in self._whole_parts if part.weights_later == piece.weights_later]
        found = [] if piece.is_part else [part for part in fitting if set(part.stages) <= set(piece.stages)]
        known = {name for part in found for name in part.stages}
        assert known == set(piece.stages), f"no costs are known of {piece.name}"
        return found

    @cached_property
    def _whole_parts(self) -> list[Part]:
        return [part for part in self.parts if part.parts == 1]

    def _bytes(self, program: Program, entry: Input, fragment: Fragment) -> float:
        """Give the size of what is read of a value; 0 of the network's inputs."""
        key = fragment.key
        if key not in program.producers:
            return 0.0
        assert key is not None
        size, axes = self.tensors[key.tensor], entry.tensor.axes
        lengths: dict[str, float] = dict(size.lengths)
        lengths["B"] = program.micro_batches[key.micro_batch]
        if "V" in axes:
            lengths["V"] = program.chunks[key.chunk or 0]
        maker = program.calls[program.producers[key]]
        if maker.piece.cut == "samples":
            lengths["B"], lengths["V"] = _own_sizes(program, maker)
        elif letter := _cut_axis(maker.piece, entry.tensor):
            lengths[letter] /= maker.piece.parts
        if isinstance(fragment.span, Range):
            lengths[fragment.axis or ""] = fragment.span.length
        return size.element_bytes * prod(lengths[axis] for axis in axes)


def _times(point: Point, runs: int) -> Point:
    return Point(point.work, *(value * runs for value in _values(point)))


def work_of(program: Program, call: Call, views: Literal["each", "fold", "none"]) -> tuple[float, int]:
    """Give the work of a stage in a call, and how many times it does it: once a view in a fold, else once."""
    num_samples, num_views = _own_sizes(program, call)
    if views == "each":
        return float(num_samples * num_views), 1
    return float(num_samples), num_views if views == "fold" and not call.piece.is_part else 1


def _own_sizes(program: Program, call: Call) -> tuple[int, int]:
    """Give the samples and views of a call; of one that is cut by samples, those of its device."""
    num_views = sum(program.chunks) if call.chunk is None or call.piece.is_part else program.chunks[call.chunk]
    sizes = {"B": program.micro_batches[call.micro_batch], "V": num_views}
    if call.piece.cut == "samples":
        for axis, share in {(f.axis, f.span) for entry in call.inputs for f in entry.fragments}:
            if axis is not None and isinstance(share, Share):
                size = sizes[axis]
                sizes[axis] = size * (share.part + 1) // share.parts - size * share.part // share.parts
    return sizes["B"], sizes["V"]


def measured_parts(program: Program, stages: Sequence[Stage], takes: Mapping[int, Take]) -> dict[Part, PartCosts]:
    """Make costs of what the calls of a rehearsed program took.

    What is done once a step is found where the last micro-batch has the size of an earlier one.
    """
    views = {stage.name: stage.views for stage in stages}
    found: dict[Part, dict[float, list[Point]]] = defaultdict(lambda: defaultdict(list))
    last: dict[Part, tuple[Point, int]] = {}
    for number, take in takes.items():
        call = program.calls[number]
        part = Part.of(call.piece)
        work, runs = work_of(program, call, views[part.stages[0]])
        values = (take.forward_s, take.backward_s, take.saved_bytes, take.shared_bytes, take.weights_s)
        point = Point(work, *(value / runs for value in values))
        if program.last_backward[call.piece.name] == number:
            last[part] = point, runs
        else:
            found[part][work].append(point)
    costs = {}
    for part, (point, runs) in last.items():
        earlier = found[part].setdefault(point.work, [point])
        more = (point.backward_s - fmean(one.backward_s for one in earlier)) * runs
        points = tuple(_mean(same) for _, same in sorted(found[part].items()))
        costs[part] = PartCosts(points, max(0.0, more))
    return costs


def _mean(points: Sequence[Point]) -> Point:
    return Point(points[0].work, *(fmean(values) for values in zip(*map(_values, points), strict=True)))


def tensor_sizes(program: Program, stages: Iterable[Stage], outputs: Mapping[Key, Tensor]) -> dict[str, TensorSize]:
    """Give the sizes of the whole tensors that a program's calls gave, or parts of which they gave."""
    tensors = {tensor.name: tensor for stage in stages for tensor in stage.outputs}
    sizes = {}
    for key, output in outputs.items():
        tensor = tensors[key.tensor]
        lengths = dict(zip(tensor.axes, output.shape, strict=True))
        maker = program.calls[program.producers[key]].piece
        letter = _cut_axis(maker, tensor)
        if letter in lengths:
            lengths[letter] *= maker.parts
        sizes[key.tensor] = TensorSize({a: n for a, n in lengths.items() if a not in "BV"}, output.element_size())
    return sizes


def _cut_axis(piece: Piece, tensor: NamedTensor) -> str | None:
    """Give the axis along which a piece's outputs are always parts; not of samples, which a call may have all."""
    if not piece.is_part or piece.cut == "samples":
        return None
    return "D" if piece.cut == "planes" else tensor.channel_axis
