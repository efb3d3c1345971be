"""A network as an ordered list of stages: what a split may cut, with the tensors between named.

Axes of a tensor, one letter each: V views, B samples of the batch, C channels, H W rows and columns of an
image (or, after a D, the y and z of a grid whose D is x), F features, G gates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class NamedTensor:
    """Name a tensor that passes between stages and the meaning of its axes, such as ``VBCHW``."""

    name: str
    axes: str


@dataclass(frozen=True)
class Stage:
    """Name one piece of a network: a module called with ``inputs`` in order, giving ``outputs`` in order.

    The name is also the module's dotted path in the network, so ``name + ".weight"`` is found in its state
    dict. A module with one output returns a tensor, with several a tuple.
    """

    name: str
    module: nn.Module
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]

    @property
    def views(self) -> Literal["each", "fold", "none"]:
        """Say how the stage treats views.

        ``each``: views are independent of one another, any subset may be computed on its own.
        ``fold``: views are taken in order and end in a state; the module is a `recurrent.RecurrentUnit`:
        ``state = initial_state(x_BGCDHW)``, then ``state = step(x_BGCDHW, state)`` a view (a state is a
        tuple of tensors with the batch first), and ``state[0]`` is the output.
        ``none``: nothing has a view axis. Samples are independent in every stage.
        """
        if not any("V" in tensor.axes for tensor in self.inputs):
            return "none"
        return "each" if all("V" in tensor.axes for tensor in self.outputs) else "fold"


def run_stages(stages: Sequence[Stage], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run stages in order on named tensors and return the outputs that no stage takes.

    A tensor is let go after the last stage that takes it.
    """
    values = dict(tensors)
    last_use = {tensor.name: index for index, stage in enumerate(stages) for tensor in stage.inputs}
    for index, stage in enumerate(stages):
        results = stage.module(*(values[tensor.name] for tensor in stage.inputs))
        if isinstance(results, Tensor):
            results = (results,)
        assert len(results) == len(stage.outputs), stage.name
        for tensor in stage.inputs:
            if last_use[tensor.name] == index:
                values.pop(tensor.name, None)
        values.update((tensor.name, result) for tensor, result in zip(stage.outputs, results, strict=True))
        del results
    return values
