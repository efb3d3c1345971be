"""Pieces that encoder and decoder share, each in the fast form and as the paper reads.

Shapes: V views, B batch, C channels, H W rows and columns, D H W the x, y, z of a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def same_conv2d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Make a convolution of images whose output has the input's sides."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def same_conv3d(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv3d:
    """Make a convolution of grids whose output has the input's sides."""
    return nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


class GateConv3d(nn.Conv3d):
    """Convolve the hidden state for several gates at once.

    Output channels (and so the first axis of weight and bias) are indexed (gate, channel). The number of
    gates is known here because the initial weights of a gate depend on the fans of that gate alone.
    """

    def __init__(self, channels: int, num_gates: int, kernel_size: int) -> None:
        super().__init__(channels, num_gates * channels, kernel_size, padding=kernel_size // 2)
        self.num_gates = num_gates

    def of_gate(self, hidden_BCDHW: Tensor, gate: int) -> Tensor:
        """Convolve for one gate alone (the plain form)."""
        assert self.bias is not None
        weight, bias = self.weight.chunk(self.num_gates)[gate], self.bias.chunk(self.num_gates)[gate]
        return F.conv3d(hidden_BCDHW, weight, bias, padding=self.padding)


def channels_last(inputs: Tensor) -> Tensor:
    """Lay the channels innermost on a CPU, whose convolutions then run faster and pass the layout on.

    Only activations are laid out so; weights and their gradients stay contiguous, for reductions and files.
    """
    if inputs.device.type != "cpu" or inputs.dtype == torch.float64:  # float64 has no such kernels
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d)


def for_each_view(function: Callable[[Tensor], Tensor], inputs_VB: Tensor, *, fast: bool) -> Tensor:
    """Apply a function of a batch to every view: as one batch of V·B samples, or (plain) one view at a time."""
    if fast:
        inputs = inputs_VB.flatten(0, 1)
        outputs = function(channels_last(inputs) if inputs.ndim == 4 else inputs)
        return outputs.view(*inputs_VB.shape[:2], *outputs.shape[1:])
    return torch.stack([function(inputs_B) for inputs_B in inputs_VB])


def max_pool(inputs_BCHW: Tensor) -> Tensor:
    """Pool 2×2 with stride 2 and padding 1: sides go 127 → 64 → 33 → 17 → 9 → 5 → 3."""
    return F.max_pool2d(inputs_BCHW, kernel_size=2, stride=2, padding=1)


def unpool(inputs_BCDHW: Tensor) -> Tensor:
    """Double the sides of a grid: the value at even indices, zeros elsewhere."""
    batch, channels, *sides = inputs_BCDHW.shape
    outputs = inputs_BCDHW.new_zeros(batch, channels, *(2 * side for side in sides))
    outputs[..., ::2, ::2, ::2] = inputs_BCDHW
    return outputs


def conv_of_unpooled(inputs_BCDHW: Tensor, conv: nn.Conv3d, *, fast: bool) -> Tensor:
    """Apply a "same" convolution of odd kernel to the unpooled input.

    The fast form never makes the unpooled grid, seven eighths of which are zeros: it is the transposed
    convolution of stride 2 with the kernel flipped and its in and out channels swapped. Every output cell
    sums the same products in both.
    """
    if not fast:
        unpooled: Tensor = conv(unpool(inputs_BCDHW))
        return unpooled
    weight = conv.weight.flip(2, 3, 4).transpose(0, 1)
    padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2, conv.kernel_size[2] // 2)
    return F.conv_transpose3d(
        channels_last(inputs_BCDHW), weight, conv.bias, stride=2, padding=padding, output_padding=1
    )


class _AddAtEvenCells(torch.autograd.Function):
    """large[..., ::2, ::2, ::2] += small, in place; unlike autograd's own, backward copies nothing."""

    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor) -> Tensor:
        large[..., ::2, ::2, ::2].add_(small)
        ctx.mark_dirty(large)
        return large

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grads
        return grad, grad[..., ::2, ::2, ::2]


def add_unpooled_(outputs_BCDHW: Tensor, inputs_BCDHW: Tensor) -> Tensor:
    """Add the unpooled input to ``outputs``, in place: only the even cells are touched.

    ``outputs`` must not be saved for the backward pass of the operation that made it.
    """
    result: Tensor = _AddAtEvenCells.apply(outputs_BCDHW, inputs_BCDHW)  # type: ignore[no-untyped-call]
    return result
