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
    """Put the fragments (already narrowed, on one device) side by side; None stands for zeros.

    The result has its axes in memory as the first fragment has: a layer need not lay it out anew.
    """
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
    order = _order_in_memory(like)
    return torch.cat([tensor.permute(order) for tensor in whole], dim=order.index(axis)).permute(_inverse(order))


class Assembly:
    """An input that several devices with the same memory want whole: put together once, by all that come for it.

    Only `copy` may be called by several threads at once, with different numbers.
    """

    def __init__(self, entry: Input, fragments: Sequence[Tensor], num_takers: int) -> None:
        """Take the fragments, none of which is zeros, and how many calls will take the whole."""
        assert entry.axis is not None
        axis = entry.tensor.axes.index(entry.axis)
        lengths = [fragment.shape[axis] for fragment in fragments]
        like = fragments[0]
        shape = [sum(lengths) if number == axis else size for number, size in enumerate(like.shape)]
        order = _order_in_memory(like)
        self.whole = like.new_empty([shape[number] for number in order]).permute(_inverse(order))
        self._pairs = list(zip(torch.split(self.whole, lengths, dim=axis), fragments, strict=True))
        self._num_claimed = self._num_copied = 0
        self._num_takers = num_takers

    def claim(self) -> int | None:
        """Give the number of a fragment that is to be copied; None if all are or are being copied."""
        if self._num_claimed == len(self._pairs):
            return None
        self._num_claimed += 1
        return self._num_claimed - 1

    def copy(self, number: int) -> None:
        """Copy a fragment that was claimed."""
        place, fragment = self._pairs[number]
        place.copy_(fragment)

    def note_copied(self) -> None:
        """Note that a fragment was copied."""
        self._num_copied += 1

    @property
    def is_whole(self) -> bool:
        """Whether all fragments are there."""
        return self._num_copied == len(self._pairs)

    def take(self) -> bool:
        """Note that a call has taken it; say whether it was the last one."""
        self._num_takers -= 1
        return not self._num_takers


def _order_in_memory(tensor: Tensor) -> list[int]:
    """Give the axes from the outermost to the innermost."""
    return sorted(range(tensor.ndim), key=lambda axis: -tensor.stride()[axis])


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


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
