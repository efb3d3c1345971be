"""A call's autograd graph: its gradients all at once, or first those of its inputs and later those of its weights.

What runs before on another device waits for the former only. Source: the schedule ZB-H1 of Qi et al. 2023 (Zero Bubble
Pipeline Parallelism), whose B and W these are. No product is computed twice: where a weight joins the graph (at a
convolution, say), the gradient that arrives is kept for later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from hvd_r2n2.common.gradient_parts import inputs_later, weights_later
from hvd_r2n2.common.stages import Stage


@dataclass(frozen=True)
class Gradient:
    """A gradient that autograd has found."""

    tensor: Tensor
    is_own: bool
    """Whether nothing else has its memory."""


class TwoRuns:
    """A graph gone through twice: for its inputs, then for its weights.

    Weights that join it in several places, as a recurrent unit's do at each view, and those whose layers put their
    gradients off themselves go together with the inputs.
    """

    def __init__(self, roots: Sequence[Tensor], seeds: Sequence[Tensor]) -> None:
        """Take the outputs that have a gradient, and these gradients."""
        self._roots, self._seeds = roots, seeds
        self._later: list[tuple[GradientEdge, Tensor, list[nn.Parameter]]] = []

    def of_inputs(
        self, leaves: Sequence[Tensor], parameters: Sequence[nn.Parameter], together: Collection[nn.Parameter]
    ) -> list[Gradient | None]:
        """Give the gradients of leaves, then those of parameters: None for those that come later.

        Args:
            leaves: what the call has read.
            parameters: its weights.
            together: those of them that must go together with the inputs.
        """
        joints = _joints(self._roots, leaves, parameters)
        uses = Counter(id(p) for own in joints.values() for p in own)
        at_once = {id(p) for p in parameters if uses[id(p)] != 1} | {id(p) for p in together}
        kept: dict[Node, Tensor] = {}
        hooks = []
        for node, own in joints.items():
            later = [parameter for parameter in own if id(parameter) not in at_once]
            if later:
                hooks.append((node, later, node.register_prehook(_keep(kept, node))))
        now = [parameter for parameter in parameters if id(parameter) in at_once]
        put_off = [parameter for _, later, _ in hooks for parameter in later]
        with weights_later(put_off):
            found = find_gradients(self._roots, self._seeds, [*leaves, *now], keep=bool(hooks))
        for node, later, hook in hooks:
            hook.remove()
            if node in kept:
                self._later.append((GradientEdge(node, 0), kept[node], later))
        by_parameter = dict(zip(map(id, now), found[len(leaves) :], strict=True))
        # Kept gradients are needed again: nobody may add to what has their memory.
        of_leaves = [gradient and Gradient(gradient.tensor, is_own=False) for gradient in found[: len(leaves)]]
        return [*of_leaves, *(by_parameter.get(id(parameter)) for parameter in parameters)]

    def of_weights(self) -> Iterator[tuple[nn.Parameter, Gradient | None]]:
        """Give the gradients of the other weights."""
        while self._later:
            edge, seed, parameters = self._later.pop()
            with inputs_later():
                found = find_gradients([edge], [seed], parameters)
            yield from zip(parameters, found, strict=True)
        self._roots = self._seeds = ()


def find_gradients(
    roots: Sequence[Tensor] | Sequence[GradientEdge],
    seeds: Sequence[Tensor],
    wanted: Sequence[Tensor],
    *,
    keep: bool = False,
) -> list[Gradient | None]:
    """Give the gradients of the `wanted` leaves, None where none comes; `keep` the graph for more."""
    if not roots or not wanted:
        return [None] * len(wanted)
    found = torch.autograd.grad(roots, wanted, seeds, allow_unused=True, retain_graph=keep)
    uses = Counter(_storage(tensor) for tensor in [*found, *seeds] if tensor is not None)
    return [None if tensor is None else Gradient(tensor, uses[_storage(tensor)] == 1) for tensor in found]


def trained(stages: Iterable[Stage]) -> list[nn.Parameter]:
    """Give the parameters of stages that want a gradient, each once."""
    found = [p for stage in stages for p in stage.module.parameters() if p.requires_grad]
    return list({id(parameter): parameter for parameter in found}.values())


def accumulate(gradients: Iterable[tuple[nn.Parameter, Gradient | None]]) -> None:
    """Add gradients to the parameters' own, as autograd would: in the parameter's layout."""
    for parameter, gradient in gradients:
        if gradient is None:
            continue
        if parameter.grad is not None:
            parameter.grad += gradient.tensor
        elif gradient.is_own and gradient.tensor.stride() == parameter.stride():
            parameter.grad = gradient.tensor
        else:
            parameter.grad = torch.empty_like(parameter).copy_(gradient.tensor)


def _joints(
    roots: Sequence[Tensor], leaves: Sequence[Tensor], parameters: Sequence[nn.Parameter]
) -> dict[Node, list[nn.Parameter]]:
    """Give the nodes at which weights, and what is made of weights alone, join what depends on the leaves."""
    leaf_ids, by_id = {id(leaf) for leaf in leaves}, {id(parameter): parameter for parameter in parameters}
    depends: dict[Node, bool] = {}
    alone: dict[Node, list[nn.Parameter]] = {}
    joints: dict[Node, list[nn.Parameter]] = {}
    for node in _backwards_from([root.grad_fn for root in roots if root.grad_fn is not None]):
        variable = getattr(node, "variable", None)
        before = [other for other, _ in node.next_functions if other is not None]
        depends[node] = id(variable) in leaf_ids or any(depends[other] for other in before)
        found = [p for other in before if not depends[other] for p in alone[other]]
        found += [by_id[id(variable)]] if id(variable) in by_id else []
        own = list({id(parameter): parameter for parameter in found}.values())
        if depends[node] and own:
            joints[node] = own
        elif not depends[node]:
            alone[node] = own
    return joints


def _backwards_from(nodes: Sequence[Node]) -> Iterator[Node]:
    """Give all nodes of a graph, each after those that it hands gradients to."""
    state: dict[Node, bool] = {}  # whether it has been given
    stack = list(nodes)
    while stack:
        node = stack[-1]
        if node not in state:
            state[node] = False
            stack += [other for other, _ in node.next_functions if other is not None and other not in state]
            continue
        stack.pop()
        if not state[node]:
            state[node] = True
            yield node


def _keep(kept: dict[Node, Tensor], node: Node) -> Callable[[tuple[Tensor, ...]], None]:
    def keep(gradients: tuple[Tensor, ...]) -> None:
        kept[node] = gradients[0]

    return keep


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
