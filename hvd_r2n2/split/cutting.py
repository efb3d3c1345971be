"""What the strategies that cut inside a layer share: the order of stages on a micro-batch, and sizes of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from hvd_r2n2.common.stages import NamedTensor, Stage
from hvd_r2n2.split.program import LOSS, Fragment, Key, Range

Keys = Mapping[str, tuple[Key, ...]]
"""By tensor: where it can be had. One key of a network input, one a part of what was made, none of what is to come."""


@dataclass(frozen=True)
class Visit:
    """One run of a stage on a micro-batch, whatever number of devices share it."""

    stage: int
    """Its number."""
    micro_batch: int
    chunk: int | None
    """Of what it gives: the view of a fold stage, 0 (all views) of one that treats each view, otherwise None."""
    view: int | None
    """The view that it takes of what has a view axis; None for all views."""

    def keys(self, tensors: Sequence[NamedTensor], part: int | None) -> tuple[Key, ...]:
        """Name what the run gives."""
        return tuple(Key(tensor.name, self.micro_batch, self.chunk, part) for tensor in tensors)

    def fragment(self, key: Key, tensor: NamedTensor) -> Fragment:
        """Give what the run takes of a value: its view, or all of it."""
        if self.view is None or "V" not in tensor.axes:
            return Fragment(key)
        return Fragment(key, "V", Range(self.view, 1))


def visits(stages: Sequence[Stage], micro_batch: int, num_views: int) -> Iterator[Visit]:
    """Give the runs of stages on a micro-batch in order: consecutive fold stages once a view, any other once."""
    for is_fold, group in groupby(range(len(stages)), key=lambda number: stages[number].views == "fold"):
        numbers = list(group)
        for view in range(num_views) if is_fold else (0,):
            for number in numbers:
                chunk = None if stages[number].views == "none" else view
                yield Visit(number, micro_batch, chunk, view if is_fold else None)


def first_keys(stages: Sequence[Stage], micro_batch: int) -> dict[str, tuple[Key, ...]]:
    """Give where tensors can be had before any stage has run: the network's inputs.

    A strategy writes the keys of what it makes over it, and so finds in it the latest state of a fold.
    """
    made = [tensor.name for stage in stages for tensor in stage.outputs]
    assert len(set(made)) == len(made), f"a tensor is given by two stages: {sorted(made)}"
    assert (stages[-1].name, stages[-1].outputs) == (LOSS, (NamedTensor(LOSS, ""),)), "the last stage gives the loss"
    read = [read.tensor for stage in stages for read in stage.inputs]
    inputs = {t.name: (Key(t.name, micro_batch, 0 if "V" in t.axes else None),) for t in read if t.name not in made}
    return inputs | dict.fromkeys(made, ())


def row_axes(module: nn.Module) -> dict[str, int]:
    """Say what axis 0 of a module's own parameters counts, as letters and sizes; nothing if it is not known."""
    axes: Mapping[str, int] | None = getattr(module, "row_axes", None)
    if axes is not None:
        return dict(axes)
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        return {"C": module.out_channels}
    return {"F": module.out_features} if isinstance(module, nn.Linear) else {}


def owners(stage: Stage) -> list[nn.Module]:
    """Give the modules of a stage that have parameters themselves."""
    return [module for module in stage.module.modules() if any(True for _ in module.parameters(recurse=False))]


def divisors(size: int, most: int) -> str:
    """Name the numbers of devices, up to `most`, that divide a size: ``1, 2 or 4``."""
    *others, last = [str(count) for count in range(1, max(most, 1) + 1) if size % count == 0]
    return f"{', '.join(others)} or {last}" if others else last
