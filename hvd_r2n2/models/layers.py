"""Pieces that the parts of networks share, each as the paper reads and rewritten (see `options.REWRITES`).

Shapes: V views, B batch, C channels, H W rows and columns, D H W the x, y, z of a grid,
F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.common.gradient_parts import weight_comes_later
from hvd_r2n2.common.products import product
from hvd_r2n2.common.stages import NamedTensor, Stage
from hvd_r2n2.common.wide_linear import wide_linear
from hvd_r2n2.models.fused import ConvSettings, can_fuse, fused_conv, sum_over_cells, transposed_weight
from hvd_r2n2.models.options import ReconstructionOptions
from hvd_r2n2.models.pooling import max_pool2d


class Conv2d(nn.Conv2d):
    """Convolve images; in bfloat16 also on a CPU without instructions for it (see `product`)."""

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """Give the convolution BCHW."""
        how = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return product(F.conv2d, inputs_BCHW, self.weight, self.bias, **how)


def same_conv2d(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> Conv2d:
    """Make a convolution of images whose output has the input's sides."""
    return Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)


class SameConv3d(nn.Conv3d):
    """Convolve a grid; the output has the input's sides."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, inputs_BCDHW: Tensor, *, slab: bool = False) -> Tensor:
        """Give the convolution; of a slab (see `GridStage`), without the planes that came in addition."""
        return self.with_weight(inputs_BCDHW, self.weight, self.bias, slab=slab)

    @property
    def halo(self) -> tuple[int, int]:
        """Give how many planes before and after its own a slab of the output needs of the input."""
        return self.kernel_size[0] // 2, self.kernel_size[0] // 2

    def with_weight(self, inputs_BCDHW: Tensor, weight: Tensor, bias: Tensor | None, *, slab: bool) -> Tensor:
        """Convolve so with another weight and bias."""
        side = self.kernel_size[0] // 2
        padding = (0 if slab else side, side, side)
        return product(F.conv3d, inputs_BCDHW, weight, bias, padding=padding, groups=self.groups)


class GateConv3d(SameConv3d):
    """Convolve the hidden state for several gates at once.

    Output channels (and so the first axis of weight and bias) are indexed (gate, channel), also where each half of
    the channels reads its own half only.
    """

    def __init__(self, channels: int, num_gates: int, kernel_size: int, groups: int = 1) -> None:
        super().__init__(channels, num_gates * channels, kernel_size, groups)
        self.row_axes = {"G": num_gates, "C": channels}

    def forward(self, hidden_BCDHW: Tensor, *, slab: bool = False) -> Tensor:
        """Give all gates, their channels one after the other."""
        if self.groups == 1:
            return super().forward(hidden_BCDHW, slab=slab)
        gates = [self.of_gate(hidden_BCDHW, gate, slab=slab) for gate in range(self.row_axes["G"])]
        return torch.cat(gates, dim=1)

    def of_gate(self, hidden_BCDHW: Tensor, gate: int, *, slab: bool = False) -> Tensor:
        """Convolve for one gate alone."""
        assert self.bias is not None
        num_gates = self.row_axes["G"]
        weight, bias = self.weight.chunk(num_gates)[gate], self.bias.chunk(num_gates)[gate]
        return self.with_weight(hidden_BCDHW, weight, bias, slab=slab)


class GroupedLinear(nn.Linear):
    """Linear layer, in which each half of the outputs may read its own half of the features only."""

    def __init__(self, in_features: int, out_features: int, groups: int, *, bias: bool = True) -> None:
        super().__init__(in_features // groups, out_features, bias)
        self.groups = groups

    def forward(self, inputs_F: Tensor) -> Tensor:
        """Give the outputs, features last as in the inputs."""
        if self.groups == 1:
            return wide_linear(inputs_F, self.weight, self.bias)
        parts = zip(inputs_F.chunk(self.groups, -1), self.weight.chunk(self.groups), strict=True)
        outputs_F = torch.cat([product(F.linear, part, weight) for part, weight in parts], dim=-1)
        return outputs_F if self.bias is None else outputs_F + self.bias


class HasGroups(Protocol):
    """A layer whose channels may fall into groups."""

    groups: int


def reach(layer: HasGroups) -> Literal["all", "group"]:
    """Say for a `Read` whether a layer's outputs read all channels or those of their own group."""
    return "all" if layer.groups == 1 else "group"


class Block(nn.Module, ABC):
    """Layers of a network, named as their weights in the state dict, that give a few stages in a row."""

    def __init__(self, name: str, options: ReconstructionOptions) -> None:
        super().__init__()
        self.name = name
        self.options = options

    @property
    def tensor(self) -> str:
        """Name what the block gives after the last part of its own name."""
        return self.name.rpartition(".")[2]

    @abstractmethod
    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the stages, from what the block reads to what it gives."""


class GridStage(nn.Module):
    """A stage's module on grids, which can be given a slab of the grid: some consecutive planes.

    With ``slab`` set, an input that the stage reads with planes before and after its own comes with them (zeros beyond
    the grid), and the output has the slab's own planes.
    """

    slab: bool = False


def convolve(
    conv: Conv2d | SameConv3d,
    inputs: Tensor,
    options: ReconstructionOptions,
    *,
    slab: bool = False,
    activated: bool = True,
    added: Tensor | None = None,
    is_kept: bool = True,
) -> Tensor:
    """Give the convolution, `activated` or plus what is `added`; NCHW or NCDHW, slabs as `SameConv3d`.

    `is_kept` says whether others keep an activated result, see `ConvSettings`.
    """
    activated = activated and added is None
    if "fused" in options.rewrites and can_fuse(inputs):
        side = conv.kernel_size[0] // 2
        padding = (side, side) if inputs.ndim == 4 else (0 if slab else side, side, side)
        slope = options.leaky_slope if activated else None
        settings = ConvSettings(padding, conv.groups, slope=slope, is_kept=is_kept or not torch.is_grad_enabled())
        return fused_conv(inputs, conv.weight, conv.bias, settings, added)
    outputs: Tensor = conv(inputs, slab=slab) if isinstance(conv, SameConv3d) else conv(inputs)
    if activated:
        return activate_(outputs, options)
    return outputs if added is None else outputs + added


def activate_(outputs: Tensor, options: ReconstructionOptions) -> Tensor:
    """Apply the leaky ReLU, in place where the form is not as the paper reads."""
    return F.leaky_relu(outputs, options.leaky_slope, inplace="fused" in options.rewrites)


def channels_last(inputs: Tensor) -> Tensor:
    """Lay the channels innermost, with which convolutions of CPUs and GPUs run faster; they pass the layout on.

    Only activations are laid out so; weights and their gradients stay contiguous, for reductions and files.
    """
    if inputs.dtype == torch.float64:  # which has no such kernels
        return inputs
    laid_out = inputs.contiguous(memory_format=torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d)
    if len(laid_out) > 1:
        return laid_out
    # The stride between samples is of no use where there is one alone, but by it torch's layers see the layout.
    innermost = laid_out.movedim(1, -1)
    return innermost.reshape(-1).view(innermost.shape).movedim(-1, 1)


def for_each_view(function: Callable[..., Tensor], *inputs_VB: Tensor, options: ReconstructionOptions) -> Tensor:
    """Apply a function of batches to every view: as one batch of V·B samples, or (plain) one view at a time."""

    def of_batch(*inputs: Tensor) -> Tensor:
        return function(*(channels_last(i) if "layout" in options.rewrites and i.ndim == 4 else i for i in inputs))

    if "views" in options.rewrites:
        outputs = of_batch(*(inputs.flatten(0, 1) for inputs in inputs_VB))
        return outputs.view(*inputs_VB[0].shape[:2], *outputs.shape[1:])
    return torch.stack([of_batch(*inputs_B) for inputs_B in zip(*inputs_VB, strict=True)])


def max_pool(inputs_BCHW: Tensor, options: ReconstructionOptions) -> Tensor:
    """Pool 2×2 with stride 2 and padding 1: sides go 127 → 64 → 33 → 17 → 9 → 5 → 3."""
    pool = max_pool2d if "fused" in options.rewrites else F.max_pool2d
    return pool(inputs_BCHW, kernel_size=2, stride=2, padding=1)


def unpool(inputs_BCDHW: Tensor) -> Tensor:
    """Double the sides of a grid: the value at even indices, zeros elsewhere."""
    batch, channels, *sides = inputs_BCDHW.shape
    outputs = inputs_BCDHW.new_zeros(batch, channels, *(2 * side for side in sides))
    outputs[..., ::2, ::2, ::2] = inputs_BCDHW
    return outputs


def convolve_unpooled(
    conv: SameConv3d, inputs_BCDHW: Tensor, options: ReconstructionOptions, *, slab: bool = False
) -> Tensor:
    """Give a "same" convolution of kernel 3 or 1 of the unpooled input and its leaky ReLU.

    Rewritten, it never makes the unpooled grid, seven eighths of which are zeros: it is the transposed
    convolution of stride 2 with the kernel flipped and its in and out channels swapped. Every output cell
    sums the same products in both.

    Of a slab, one plane after its own comes in addition: the last plane of its convolution is not right, for it would
    need the plane after that, and is dropped.
    """
    if "layout" in options.rewrites:
        inputs_BCDHW = channels_last(inputs_BCDHW)
    if "unpool" not in options.rewrites:
        unpooled_BCDHW = unpool(inputs_BCDHW)
        outputs = convolve(conv, unpooled_BCDHW[:, :, :-1] if slab else unpooled_BCDHW, options)
        return outputs[:, :, :-1] if slab else outputs
    side = conv.kernel_size[0] // 2
    if "fused" in options.rewrites and can_fuse(inputs_BCDHW):
        # Two planes too many, for oneDNN is ten times slower where a stride does not divide the output.
        dropped = 2 if slab else 0
        settings = ConvSettings((side,) * 3, conv.groups, True, (1, 1, 1), options.leaky_slope, dropped)
        return fused_conv(inputs_BCDHW, conv.weight, conv.bias, settings)
    weight = transposed_weight(conv.weight, conv.groups)
    how = {"stride": 2, "padding": side, "output_padding": (0 if slab else 1, 1, 1), "groups": conv.groups}
    outputs = product(F.conv_transpose3d, inputs_BCDHW, weight, conv.bias, **how)
    activated = activate_(outputs, options)
    return activated[:, :, :-1] if slab else activated


class _AddUnpooled(torch.autograd.Function):
    """Unlike with autograd's own for the parts, neither pass makes a grid of zeros."""

    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor, bias: Tensor | None) -> Tensor:
        result = large.clone() if bias is None else large + bias.to(large.dtype)[:, None, None, None]
        result[..., ::2, ::2, ::2].add_(small)
        ctx.bias_dtype, ctx.bias_id = None if bias is None else bias.dtype, id(bias)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        (grad,) = grads
        wants_bias = ctx.bias_dtype is not None and not weight_comes_later(ctx.bias_id)
        to_bias = sum_over_cells(grad).to(ctx.bias_dtype) if wants_bias else None
        return grad, grad[..., ::2, ::2, ::2], to_bias


def add_unpooled(outputs_BCDHW: Tensor, inputs_BCDHW: Tensor, bias: Tensor | None = None) -> Tensor:
    """Add the unpooled input and a value a channel: the input touches the even cells only."""
    result: Tensor = _AddUnpooled.apply(outputs_BCDHW, inputs_BCDHW, bias)  # type: ignore[no-untyped-call]
    return result
