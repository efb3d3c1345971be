"""A network as a list of stages: what a split may cut, with the tensors between named.

Axes of a tensor, one letter each: V views, B samples of the batch, C channels, H W rows and columns of an
image (or, after a D, the y and z of a grid whose D is x; the D positions are called planes), F features, G gates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from torch import Tensor, nn

NUM_TOWERS = 2
"""Where a network has towers (Krizhevsky et al. 2012): halves of every layer's channels."""


@dataclass(frozen=True)
class NamedTensor:
    """Name a tensor that passes between stages and the meaning of its axes, such as ``VBCHW``."""

    name: str
    axes: str

    @property
    def channel_axis(self) -> str | None:
        """Give the letter of the axis that a kernel split cuts: C, or F where there is no C."""
        return next((axis for axis in "CF" if axis in self.axes), None)


@dataclass(frozen=True)
class Read:
    """Say how much of an input a part of a stage's output needs."""

    tensor: NamedTensor
    """What is read."""
    channels: Literal["all", "group", "own"] = "all"
    """For some of the output channels: ``all`` channels of the input; those of the same ``group`` (of a network
    with towers, a tower's half); or its ``own``, the very same ones, as in a sum."""
    planes: tuple[int, int] = (0, 0)
    """For a slab of the output's planes: how many planes of the input before and after its own slab."""


@dataclass(frozen=True)
class Stage:
    """Name one piece of a network: a module called with ``inputs`` in order, giving ``outputs`` in order.

    A module with one output returns a tensor, with several a tuple. Its parameters are those of the network,
    the same objects. A tensor may be read twice, in different ways. Samples are independent in every stage.
    """

    name: str
    module: nn.Module
    inputs: tuple[Read, ...]
    outputs: tuple[NamedTensor, ...]

    @property
    def views(self) -> Literal["each", "fold", "none"]:
        """Say how the stage treats views.

        ``each``: views are independent of one another, any subset may be computed on its own.
        ``fold``: consecutive fold stages are run once a view, in order. They take a view of what has a view axis, and
        of the rest what the view before left, or None at the first view.
        ``none``: nothing has a view axis.
        """
        if not any("V" in read.tensor.axes for read in self.inputs):
            return "none"
        return "each" if all("V" in tensor.axes for tensor in self.outputs) else "fold"


def run_stages(stages: Sequence[Stage], tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Run stages in order on named tensors and return those that are wanted.

    A tensor is let go after the last stage that reads it.
    """
    values = dict(tensors)
    last_use = {read.tensor.name: number for number, stage in enumerate(stages) for read in stage.inputs}
    for is_fold, group in groupby(enumerate(stages), key=lambda item: item[1].views == "fold"):
        numbered = list(group)
        if is_fold:
            _fold([stage for _, stage in numbered], values)
        for number, stage in numbered:
            if not is_fold:
                values.update(_call(stage, [values[read.tensor.name] for read in stage.inputs]))
            for name in {read.tensor.name for read in stage.inputs} - set(wanted):
                if last_use[name] == number:
                    values.pop(name, None)
    return {name: values[name] for name in wanted}


def _fold(stages: Sequence[Stage], values: dict[str, Tensor]) -> None:
    """Run fold stages once a view; `values` gets what the last view leaves."""
    reads = [read.tensor for stage in stages for read in stage.inputs]
    # Taken apart once: each view's gradient is then put in its place, not added to zeros of the whole.
    viewed = {tensor.name: values[tensor.name].unbind(0) for tensor in reads if "V" in tensor.axes}
    for of_view in zip(*viewed.values(), strict=True):
        views = dict(zip(viewed, of_view, strict=True))
        for stage in stages:
            inputs = [views.get(read.tensor.name, values.get(read.tensor.name)) for read in stage.inputs]
            values.update(_call(stage, inputs))


def _call(stage: Stage, inputs: Sequence[Tensor | None]) -> Iterator[tuple[str, Tensor]]:
    results = stage.module(*inputs)
    if isinstance(results, Tensor):
        results = (results,)
    return zip((tensor.name for tensor in stage.outputs), results, strict=True)
