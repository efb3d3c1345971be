"""A call's autograd graph: its gradients all at once, or first those of its inputs and later those of its weights.

What runs before on another device waits for the former only. To have them first costs little: the graph is cut between
stages, and each stage is gone through once for its inputs and once for its weights, so that nothing but the
derivatives of activations is computed twice. Source: the schedule ZB-H1 of Qi et al. 2023 (Zero Bubble Pipeline
Parallelism), whose B and W these are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.common.wide_linear import WideWork


@dataclass(frozen=True)
class Gradient:
    """A gradient that autograd has found."""

    tensor: Tensor
    is_own: bool
    """Whether nothing else has its memory."""


@dataclass(frozen=True)
class _Segment:
    """One stage, or consecutive fold stages, with a graph of its own."""

    leaves: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    parameters: Sequence[nn.Parameter]
    at_once: bool
    """Whether weights go together with inputs: a fold's would need its whole graph again, and wide layers put theirs
    off themselves."""


class SegmentedGraph:
    """The graph of consecutive stages in segments."""

    def __init__(
        self, stages: Sequence[Stage], inputs: Mapping[str, Tensor], wanted: Collection[str], work: WideWork
    ) -> None:
        """Run the stages forward.

        Args:
            stages: the call's.
            inputs: what they read and do not make, by name: leaves that want a gradient or not.
            wanted: names of what the call gives.
            work: what wide layers put off, active in this thread.
        """
        self._segments: list[_Segment] = []
        self._later: list[tuple[list[Tensor], list[Tensor], Sequence[nn.Parameter]]] = []
        values = dict(inputs)
        groups = [list(group) for _, group in groupby(stages, key=lambda s: "fold" if s.views == "fold" else s.name)]
        for number, group in enumerate(groups):
            read_later = {read.tensor.name for later in groups[number + 1 :] for s in later for read in s.inputs}
            made = {tensor.name for stage in group for tensor in stage.outputs}
            read = {read.tensor.name for stage in group for read in stage.inputs}
            leaves = {name: value for name, value in values.items() if name in read}
            outputs = run_stages(group, leaves, made & (read_later | set(wanted)))
            parameters = trained(group)
            at_once = len(group) > 1 or group[0].views == "fold" or any(map(work.puts_off, parameters))
            self._segments.append(_Segment(leaves, outputs, parameters, at_once))
            values |= {name: t.detach().requires_grad_(t.requires_grad) for name, t in outputs.items()}
        self.outputs = {name: values[name] for name in wanted}
        """What the stages give, by name."""

    def backward(self, seeds: Mapping[str, Tensor]) -> tuple[dict[str, Gradient], list[tuple[nn.Parameter, Gradient]]]:
        """Give the gradients of inputs by name, and of those weights that go together with them.

        Args:
            seeds: gradients of the outputs that have any.
        """
        found = dict(seeds)
        weights: list[tuple[nn.Parameter, Gradient]] = []
        while self._segments:
            segment = self._segments.pop()
            names = [name for name, tensor in segment.outputs.items() if name in found and tensor.requires_grad]
            roots, own_seeds = [segment.outputs[name] for name in names], [found.pop(name) for name in names]
            if not roots:
                continue
            leaves = {name: leaf for name, leaf in segment.leaves.items() if leaf.requires_grad}
            at_once = segment.parameters if segment.at_once else ()
            gradients = find_gradients(roots, own_seeds, [*leaves.values(), *at_once], keep=not segment.at_once)
            for name, gradient in zip(leaves, gradients, strict=False):
                if gradient is not None:
                    found[name] = found[name] + gradient.tensor if name in found else gradient.tensor
            pairs = zip(at_once, gradients[len(leaves) :], strict=True)
            weights += [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
            if segment.parameters and not segment.at_once:
                self._later.append((roots, own_seeds, segment.parameters))
        # The seeds are needed again: nobody may add to what has their memory.
        return {name: Gradient(tensor, is_own=False) for name, tensor in found.items()}, weights

    def weights(self) -> Iterable[tuple[nn.Parameter, Gradient]]:
        """Give the gradients of the other weights, after `backward`."""
        while self._later:
            roots, seeds, parameters = self._later.pop(0)
            gradients = find_gradients(roots, seeds, parameters)
            yield from (
                (p, gradient) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
            )


def find_gradients(
    roots: Sequence[Tensor], seeds: Sequence[Tensor], wanted: Sequence[Tensor], *, keep: bool = False
) -> list[Gradient | None]:
    """Give the gradients of the `wanted` leaves, None where none comes; `keep` the graph for more."""
    if not wanted:
        return []
    found = torch.autograd.grad(roots, wanted, seeds, allow_unused=True, retain_graph=keep)
    uses = Counter(_storage(tensor) for tensor in [*found, *seeds] if tensor is not None)
    return [None if tensor is None else Gradient(tensor, uses[_storage(tensor)] == 1) for tensor in found]


def trained(stages: Iterable[Stage]) -> list[nn.Parameter]:
    """Give the parameters of stages that want a gradient, each once."""
    found = [p for stage in stages for p in stage.module.parameters() if p.requires_grad]
    return list({id(parameter): parameter for parameter in found}.values())


def accumulate(parameter: nn.Parameter, gradient: Gradient) -> None:
    """Add a gradient to the parameter's own, as autograd would: in the parameter's layout."""
    if parameter.grad is not None:
        parameter.grad += gradient.tensor
    elif gradient.is_own and gradient.tensor.stride() == parameter.stride():
        parameter.grad = gradient.tensor
    else:
        parameter.grad = torch.empty_like(parameter).copy_(gradient.tensor)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
