"""Convolutions with what comes after them, for CPUs: the same sums as torch's own, with fewer passes over memory.

Of a training step on two cores torch's own spend a tenth on reading and writing the whole output again for its leaky
ReLU, as much on sums over a transposed convolution's bias, and in bfloat16 more on the weights of a first layer of
three channels than on the layer itself.

Shapes: N samples, C channels, H W rows and columns, K L rows and columns of a kernel, O its output channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hvd_r2n2.common.gradient_parts import inputs_come_later, weight_comes_later
from hvd_r2n2.common.kept_weights import kept, stays
from hvd_r2n2.common.products import computing_dtype, product_dtype
from hvd_r2n2.models.kernel_gradients import columns_beside, kernel_gradient, products_are_faster

_FEW_CHANNELS = 4
"""Up to so many input channels, an image kernel's gradient is faster with its columns as channels (not in float32)."""


@dataclass(frozen=True)
class ConvSettings:
    """How to convolve, as torch has it."""

    padding: tuple[int, ...]
    groups: int = 1
    doubles: bool = False
    """Convolve the unpooled input (see `layers.unpool`), with the stride 1 that all convolutions here have."""
    output_padding: tuple[int, ...] = ()
    """Planes, rows and columns after the last, where it doubles."""
    slope: float | None = None
    """Of a leaky ReLU of the result."""
    drops_last: int = 0
    """Leave out so many last planes of the result, which is activated."""
    is_kept: bool = True
    """Others keep an activated result too. Else backward has its sign alone (not in bfloat16: it would be slower)."""


def can_fuse(inputs: Tensor) -> bool:
    """Say whether `fused_conv` has kernels for this input, or what autocast makes of it, on its device."""
    dtype = product_dtype(computing_dtype(inputs), inputs.device)
    if inputs.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype in (torch.float32, torch.float64)


def fused_conv(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings, added: Tensor | None = None
) -> Tensor:
    """Give the convolution of images or grids, activated or with something added; under autocast in its type.

    Args:
        inputs: NCHW or NCDHW.
        weight: (O, C / groups, kernel), also where it doubles: the exact kernel of the unpooled input.
        bias: (O).
        settings: the rest.
        added: what is added to the convolution where it neither doubles nor is activated; of its shape.
    """
    assert added is None or (settings.slope is None and not settings.doubles)
    outputs: Tensor = _FusedConv.apply(inputs, weight, bias, settings, added)  # type: ignore[no-untyped-call]
    return outputs


def transposed_weight(weight: Tensor, groups: int) -> Tensor:
    """Turn the kernel of a convolution of the unpooled input into that of the same transposed convolution, or back."""
    # A group's (out, in, kernel) becomes (in, out, kernel).
    return torch.cat([rows.transpose(0, 1) for rows in weight.flip(2, 3, 4).chunk(groups)])


class _FusedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings, added: Tensor | None
    ) -> Tensor:
        dtype = computing_dtype(inputs)
        own_inputs, inner = inputs.to(dtype), product_dtype(dtype, inputs.device)
        kernel = _kernel(weight, own_inputs, inner, settings)
        own_bias, own_added = (None if tensor is None else tensor.to(dtype).to(inner) for tensor in (bias, added))
        compute = _plainly if dtype == torch.float64 else _by_onednn  # which has no float64
        outputs = compute(own_inputs.to(inner), kernel.to(inner), own_bias, settings, own_added).to(dtype)
        activated = None if settings.slope is None else outputs
        if activated is not None and not (settings.is_kept or dtype == torch.bfloat16):
            activated = outputs > 0
        ctx.save_for_backward(own_inputs, kernel, activated)
        ctx.settings = settings
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (inputs, weight, bias, added)]
        ctx.weight_id = id(weight)
        return outputs[:, :, : -settings.drops_last] if settings.drops_last else outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        settings: ConvSettings = ctx.settings
        inputs, kernel, activated = ctx.saved_tensors
        if activated is not None:
            gradient = _before_activation(gradient, activated, settings)
        inner = product_dtype(inputs.dtype, inputs.device)
        inputs, kernel, gradient = (tensor.to(inner) for tensor in (inputs, kernel, gradient))
        wants_inputs = ctx.needs_input_grad[0] and not inputs_come_later()
        is_weight_now = not weight_comes_later(ctx.weight_id)
        wants_weight, wants_bias = (wanted and is_weight_now for wanted in ctx.needs_input_grad[1:3])
        is_whole_image = inputs.ndim == 4 and settings.groups == 1
        by_rows = wants_weight and is_whole_image and inputs.dtype != torch.float32 and inputs.shape[1] <= _FEW_CHANNELS
        by_products = wants_weight and products_are_faster(inputs, kernel, settings.groups)
        wanted = (wants_inputs, wants_weight and not by_rows and not by_products, wants_bias and not by_rows)
        to_inputs, to_weight, to_bias = _gradients(inputs, kernel, gradient, settings, wanted)
        if by_rows:
            to_weight, to_bias = _gradients_by_rows(inputs, kernel.shape, gradient, settings, wants_bias)
        elif by_products:
            to_weight = kernel_gradient(inputs, gradient, (kernel.shape[2], kernel.shape[3]), settings.padding)
        if to_weight is not None and settings.doubles:
            to_weight = transposed_weight(to_weight, settings.groups)
        found = zip((to_inputs, to_weight, to_bias, gradient), ctx.dtypes, strict=True)
        *own, to_added = (None if one is None or dtype is None else one.to(dtype) for one, dtype in found)
        return *own, None, to_added


def _kernel(weight: Tensor, inputs: Tensor, inner: torch.dtype, settings: ConvSettings) -> Tensor:
    """Give the kernel in the type of the inputs; one that is kept as the convolution reads it, in its `inner` type."""

    def make() -> Tensor:
        kernel = weight.to(inputs.dtype)
        return transposed_weight(kernel, settings.groups) if settings.doubles else kernel

    if not stays(weight):
        return make()
    layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
    layout = layout if inputs.is_contiguous(memory_format=layout) else torch.contiguous_format
    return kept(weight, (inputs.dtype, inner, layout), lambda: make().to(inner, memory_format=layout))


def _by_onednn(
    inputs: Tensor, kernel: Tensor, bias: Tensor | None, settings: ConvSettings, added: Tensor | None
) -> Tensor:
    ones = [1] * len(settings.padding)
    how = (settings.padding, ones, ones, settings.groups)
    activation = ("none", [], "") if settings.slope is None else ("leaky_relu", [settings.slope], "")
    ops = torch.ops.mkldnn
    outputs: Tensor
    if settings.doubles:
        twos = [2] * len(ones)
        outputs = ops._convolution_transpose_pointwise(
            inputs, kernel, bias, settings.padding, settings.output_padding, twos, ones, settings.groups, *activation
        )
    elif added is not None:
        outputs = ops._convolution_pointwise.binary(inputs, added, kernel, bias, *how, "add", 1.0, None, [], None)
    else:
        outputs = ops._convolution_pointwise(inputs, kernel, bias, *how, *activation)
    return outputs


def _plainly(
    inputs: Tensor, kernel: Tensor, bias: Tensor | None, settings: ConvSettings, added: Tensor | None
) -> Tensor:
    num_axes = len(settings.padding)
    stride = [2 if settings.doubles else 1] * num_axes
    how = (stride, settings.padding, [1] * num_axes, settings.doubles, settings.output_padding or [0] * num_axes)
    outputs = torch.convolution(inputs, kernel, bias, *how, settings.groups)
    if settings.slope is not None:
        outputs = F.leaky_relu(outputs, settings.slope)
    return outputs if added is None else outputs + added


def sum_over_cells(values: Tensor) -> Tensor:
    """Sum over all axes but the channels', the second."""
    innermost = values.movedim(1, -1)
    by_matrix_unit = values.device.type == "cpu" and product_dtype(values.dtype, values.device) == torch.bfloat16
    if not by_matrix_unit or not innermost.is_contiguous():
        return values.sum([0, *range(2, values.ndim)])
    # It adds up bfloat16, in float32, three times as fast as `sum`.
    rows = innermost.flatten(0, -2)
    return (rows.new_ones(1, len(rows)) @ rows)[0]


def _before_activation(gradient: Tensor, activated: Tensor, settings: ConvSettings) -> Tensor:
    """Give the gradient of what the leaky ReLU was given; laid out as its result, whatever the gradient's layout."""
    assert settings.slope is not None
    found = torch.empty_like(activated, dtype=gradient.dtype)
    kept = found
    if settings.drops_last:
        kept, activated = (tensor[:, :, : -settings.drops_last] for tensor in (found, activated))
        found[:, :, -settings.drops_last :] = 0
    if activated.dtype == torch.bool:
        # A result of ones and zeros, in place: a sixth of the time that `torch.where` takes.
        activated = kept.copy_(activated.view(torch.int8))
    torch.ops.aten.leaky_relu_backward.grad_input(gradient, activated, settings.slope, True, grad_input=kept)
    return found


def _gradients(
    inputs: Tensor, kernel: Tensor, gradient: Tensor, settings: ConvSettings, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Give the gradients of inputs, kernel and bias, None for those not wanted."""
    wants_inputs, wants_weight, wants_bias = wanted
    sums_apart = settings.doubles or gradient.dtype == torch.float32  # where oneDNN's own sums are slow
    to_inputs = to_weight = to_bias = None
    if wants_inputs or wants_weight or (wants_bias and not sums_apart):
        num_axes = len(settings.padding)
        to_inputs, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient,
            inputs,
            kernel,
            [gradient.shape[1]],
            [2 if settings.doubles else 1] * num_axes,
            settings.padding,
            [1] * num_axes,
            settings.doubles,
            settings.output_padding or [0] * num_axes,
            settings.groups,
            [wants_inputs, wants_weight, wants_bias and not sums_apart],
        )
    if wants_bias and sums_apart:
        to_bias = sum_over_cells(gradient)
    return to_inputs, to_weight, to_bias


def _gradients_by_rows(
    inputs_NCHW: Tensor, shape_OCKL: torch.Size, gradient_NOHW: Tensor, settings: ConvSettings, wants_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Give the gradients of a kernel whose columns are taken as channels (L·C, of K×1 kernels) and of the bias."""
    num_outputs, channels, rows, columns = shape_OCKL
    height_padding, width_padding = settings.padding
    wide = columns_beside(inputs_NCHW.permute(0, 2, 3, 1), columns, width_padding).permute(0, 3, 1, 2)
    kernel = wide.new_empty(num_outputs, columns * channels, rows, 1)
    wanted = (False, True, wants_bias)
    _, by_rows, to_bias = _gradients(wide, kernel, gradient_NOHW, ConvSettings((height_padding, 0)), wanted)
    assert by_rows is not None
    return by_rows.view(num_outputs, columns, channels, rows).permute(0, 2, 3, 1).contiguous(), to_bias
