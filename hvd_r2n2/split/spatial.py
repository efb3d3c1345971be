"""The `spatial` strategy: every device computes a slab of the volume, and some of the samples before there is one.

    samples of the micro-batch           planes of the grids
    device 0   encoder[0]  ──╲╱──  projection[0]   unit[0] ⇄ block7[0] ⇄ ...  loss[0]
    device 1   encoder[1]  ──╱╲──  projection[1]   unit[1] ⇄ block7[1] ⇄ ...  loss[1]

⇄: the neighbour's planes next to the slab, as many as the stage reads; zeros at the border of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.split.cutting import Keys, Visit, divisors, first_keys, owners, row_axes, visits
from hvd_r2n2.split.program import LOSS, Call, Fragment, Input, Key, Piece, Program, Range, Share, one_at_a_time


def spatial_program(
    stages: Sequence[Stage],
    num_devices: int,
    micro_batches: Sequence[int],
    num_views: int,
) -> Program:
    """Cut stages that give a grid, and the loss, by planes; those before, which treat each view, by samples or views.

    Every device has all weights of the stages that are cut by samples; where a micro-batch has too few samples and
    views for all devices, the first one takes all of them. Consecutive fold stages have a call a view, whose chunk is
    the view, any other stage one for all views.

    Args:
        stages: those of the network, then the loss, which must be a mean over planes.
        num_devices: how many slabs there are.
        micro_batches: samples of each.
        num_views: pictures of each sample.

    Raises:
        ValueError: the network cannot be cut so; see `check_spatial`.
    """
    check_spatial(stages, num_devices)
    units = _units(stages)
    pieces = [_pieces(unit, num_devices) for unit in units]
    calls: list[Call] = []
    for micro_batch, samples in enumerate(micro_batches):
        keys = first_keys(stages, micro_batch)
        cut = _SampleCut.of(samples, num_views, num_devices)
        for visit in visits([unit[0] for unit in units], micro_batch, num_views):
            unit, parts = units[visit.stage], pieces[visit.stage]
            if parts[0].cut == "samples":
                new = [_call_of_samples(unit, piece, visit, keys, cut, stages) for piece in parts[: cut.parts]]
            else:
                weight = samples / sum(micro_batches) / num_devices if unit[0].name == LOSS else 0.0
                new = [_call_of_planes(unit[0], piece, visit, keys, cut, weight) for piece in parts]
            calls += new
            for same in zip(*(call.outputs for call in new), strict=True):
                keys[same[0].tensor] = same
    orders = one_at_a_time(calls, num_devices)
    return Program("spatial", num_devices, tuple(micro_batches), (num_views,), tuple(calls), orders)


def check_spatial(stages: Sequence[Stage], num_devices: int) -> None:
    """Check that stages can be cut by planes and samples over a number of devices.

    The planes of the smallest grid must be divisible by it (those of larger ones, twice as many and so on, then are
    too), and no stage may read more planes of a neighbour than the neighbour has.

    Raises:
        ValueError: they cannot; says what would be right.
    """
    if not any("D" in tensor.axes for stage in stages for tensor in stage.outputs):
        raise ValueError(
            f"spatial split: the network has no volume, none of the stages {stages[0].name} to {stages[-2].name} "
            "gives a grid (use another strategy)"
        )
    known = {stage.name: axes["D"] for stage in stages for axes in map(row_axes, owners(stage)) if "D" in axes}
    if not known:
        raise ValueError("spatial split: no stage says how many planes its grid has (give a module row_axes with D)")
    for name, planes in known.items():
        if planes % num_devices:
            raise ValueError(
                f"spatial split of {name} over {num_devices} devices: {planes} planes are not divisible by "
                f"{num_devices} (use {divisors(planes, 2 * num_devices)})"
            )
    _check_reads(stages, num_devices, min(known.values()))


def _check_reads(stages: Sequence[Stage], num_devices: int, planes: int) -> None:
    """Raise a ValueError where a slab reads too far, or what is no range of one axis of a part."""
    made = {tensor.name for stage in stages for tensor in stage.outputs}
    for stage in stages:
        for read in (read for read in stage.inputs if "D" in read.tensor.axes):
            reach, tensor = max(read.planes), read.tensor
            if num_devices > 1 and reach > planes // num_devices:
                raise ValueError(
                    f"spatial split of {stage.name} over {num_devices} devices: it reads {reach} planes of its "
                    f"neighbour, which may have only {planes // num_devices} (use {divisors(planes, planes // reach)})"
                )
            cuts = (reach > 0, tensor.name not in made, stage.views == "fold" and "V" in tensor.axes)
            if sum(cuts) > 1:
                raise ValueError(
                    f"spatial split of {stage.name}: what it reads of {tensor.name} of axes {tensor.axes!r} is no "
                    "range of one axis of one part (let a stage before read it)"
                )


@dataclass(frozen=True)
class _SampleCut:
    """How the samples of a micro-batch are shared among the devices."""

    axis: Literal["B", "V"] | None
    """Along which axis; None where the first device has all of them."""
    parts: int
    num_views: int

    @classmethod
    def of(cls, samples: int, num_views: int, num_devices: int) -> _SampleCut:
        """Choose: equal shares of samples, or else of views, or else unequal ones, of samples first again."""
        if samples % num_devices == 0 or (num_views % num_devices and samples >= num_devices):
            return cls("B", num_devices, num_views)
        return cls("V", num_devices, num_views) if num_views >= num_devices else cls(None, 1, num_views)

    def gather(self, keys: tuple[Key, ...], tensor: NamedTensor, visit: Visit) -> Input:
        """Give all samples of a tensor that was made in parts, of the views that a run takes."""
        if visit.view is None or self.axis != "V":
            fragments = tuple(visit.fragment(key, tensor) for key in keys)
            return Input(tensor, fragments, self.axis if len(keys) > 1 else None)
        first_views = [self.num_views * part // self.parts for part in range(self.parts)]
        part = max(part for part, first in enumerate(first_views) if first <= visit.view)
        return Input(tensor, (Fragment(keys[part], "V", Range(visit.view - first_views[part], 1)),))


def _kind(stage: Stage) -> Literal["samples", "planes"]:
    """Say how a stage is cut."""
    if stage.name == LOSS:
        flat = [read.tensor for read in stage.inputs if "D" not in read.tensor.axes]
        if flat:
            raise ValueError(f"spatial split of {LOSS}: it reads {flat[0].name}, which has no planes")
        return "planes"
    if all("D" in tensor.axes for tensor in stage.outputs):
        return "planes"
    if stage.views != "each" or any("D" in tensor.axes for tensor in (*_read(stage), *stage.outputs)):
        raise ValueError(
            f"spatial split of {stage.name}: it neither gives grids nor treats each view of pictures by itself (use "
            "another strategy)"
        )
    return "samples"


def _read(stage: Stage) -> list[NamedTensor]:
    return [read.tensor for read in stage.inputs]


def _units(stages: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """Join consecutive stages that are cut by samples: nothing has to be exchanged between them."""
    units: list[tuple[Stage, ...]] = []
    for kind, group in groupby(stages, key=_kind):
        together = tuple(group)
        units += [together] if kind == "samples" else [(stage,) for stage in together]
    return units


def _pieces(unit: tuple[Stage, ...], parts: int) -> list[Piece]:
    names = tuple(stage.name for stage in unit)
    name = names[0] if len(names) == 1 else f"{names[0]}…{names[-1]}"
    return [Piece(f"{name}[{part}]", names, part, _kind(unit[0]), part, parts) for part in range(parts)]


def _call_of_samples(
    unit: tuple[Stage, ...], piece: Piece, visit: Visit, keys: Keys, cut: _SampleCut, stages: Sequence[Stage]
) -> Call:
    """Give a call that takes its samples of the network's inputs, and of the rest what its device made of them."""
    made = [tensor for stage in unit for tensor in stage.outputs]
    elsewhere = {tensor for stage in stages if stage not in unit for tensor in _read(stage)}
    inputs = []
    for tensor in dict.fromkeys(tensor for stage in unit for tensor in _read(stage) if tensor not in made):
        key = keys[tensor.name][min(piece.part, len(keys[tensor.name]) - 1)]
        is_cut = key.part is None and cut.axis is not None and cut.axis in tensor.axes
        fragment = Fragment(key, cut.axis, Share(piece.part, piece.parts)) if is_cut else Fragment(key)
        inputs.append(Input(tensor, (fragment,)))
    outputs = visit.keys([tensor for tensor in made if tensor in elsewhere], piece.part)
    return Call(piece, visit.micro_batch, visit.chunk, tuple(inputs), outputs)


def _call_of_planes(stage: Stage, piece: Piece, visit: Visit, keys: Keys, cut: _SampleCut, weight: float) -> Call:
    """Give a call that computes a slab of what a stage gives."""
    inputs = tuple(_slab(read, keys[read.tensor.name], piece, visit, cut) for read in stage.inputs)
    return Call(piece, visit.micro_batch, visit.chunk, inputs, visit.keys(stage.outputs, piece.part), weight)


def _slab(read: Read, keys: tuple[Key, ...], piece: Piece, visit: Visit, cut: _SampleCut) -> Input:
    """Give what a slab reads: all of what has no planes, else its own planes and the neighbours' next to them."""
    tensor, (before, after), part = read.tensor, read.planes, piece.part
    if not keys:
        return Input(tensor, ())
    if keys[0].part is None:  # the network's input
        share = Fragment(keys[0], "D", Share(part, piece.parts))
        return Input(tensor, (share if "D" in tensor.axes else visit.fragment(keys[0], tensor),))
    if "D" not in tensor.axes:
        return cut.gather(keys, tensor, visit)
    fragments = [visit.fragment(keys[part], tensor)]
    if before:
        below = keys[part - 1] if part > 0 else None
        fragments.insert(0, Fragment(below, "D", Range(-before if below else 0, before)))
    if after:
        above = keys[part + 1] if part + 1 < piece.parts else None
        fragments.append(Fragment(above, "D", Range(0, after)))
    return Input(tensor, tuple(fragments), "D" if len(fragments) > 1 else None)
