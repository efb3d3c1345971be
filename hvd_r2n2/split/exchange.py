"""How a task's input is put together from parts of tensors, and how its gradient is taken apart again.

Both are linear and each is the other's adjoint: ⟨gather(x), y⟩ = ⟨x, scatter(y)⟩.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hvd_r2n2.split.program import Fragment, Input, Range, Share


def span_of(fragment: Fragment, axes: str, shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Give (axis number, start, length) of a fragment in a tensor; None for all of it."""
    if fragment.axis is None:
        return None
    axis = axes.index(fragment.axis)
    size = shape[axis]
    if isinstance(fragment.span, Share):
        start = size * fragment.span.part // fragment.span.parts
        return axis, start, size * (fragment.span.part + 1) // fragment.span.parts - start
    assert isinstance(fragment.span, Range)
    start = fragment.span.start + (size if fragment.span.start < 0 else 0)
    assert 0 <= start <= size - fragment.span.length, f"{fragment} of a tensor of shape {tuple(shape)}"
    return axis, start, fragment.span.length


def narrowed(value: Tensor, fragment: Fragment, axes: str) -> Tensor:
    """Give the fragment of a value, a view."""
    span = span_of(fragment, axes, value.shape)
    return value if span is None else value.narrow(*span)


def gather(entry: Input, fragments: Sequence[Tensor | None]) -> Tensor:
    """Put the fragments (already narrowed, on one device) side by side; None stands for zeros."""
    if len(fragments) == 1:
        assert fragments[0] is not None
        return fragments[0]
    assert entry.axis is not None
    axis = entry.tensor.axes.index(entry.axis)
    like = next(tensor for tensor in fragments if tensor is not None)
    whole = [
        _zeros(like, axis, fragment) if tensor is None else tensor
        for tensor, fragment in zip(fragments, entry.fragments, strict=True)
    ]
    return torch.cat(whole, dim=axis)


def scatter(entry: Input, gradient: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Take a gathered tensor apart: views of `gradient`, one a fragment, of `lengths` along the entry's axis."""
    if len(lengths) == 1:
        return [gradient]
    assert entry.axis is not None
    return list(torch.split(gradient, list(lengths), dim=entry.tensor.axes.index(entry.axis)))


def embed(target: Tensor, fragment: Fragment, axes: str, gradient: Tensor) -> None:
    """Add the gradient of a fragment to that of its value, in place."""
    narrowed(target, fragment, axes).add_(gradient)


def _zeros(like: Tensor, axis: int, fragment: Fragment) -> Tensor:
    shape = list(like.shape)
    shape[axis] = zeros_length(fragment)
    return like.new_zeros(shape)


def zeros_length(fragment: Fragment) -> int:
    """Give how many positions a fragment of zeros has."""
    assert isinstance(fragment.span, Range), fragment
    return fragment.span.length
