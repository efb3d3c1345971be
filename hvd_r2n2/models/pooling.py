"""Max pooling of images that keeps for backward where each maximum lies, and not, as torch's own, its input as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def max_pool2d(inputs_BCHW: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """Give what `torch.nn.functional.max_pool2d` gives of square windows, and its gradient, to the bit; BCHW."""
    outputs: Tensor = _MaxPool.apply(inputs_BCHW, kernel_size, stride, padding)  # type: ignore[no-untyped-call]
    return outputs


class _MaxPool(torch.autograd.Function):
    """torch's own keeps its input, of which backward uses the shape: a fifth of what a step of Res3D-GRU-3 keeps."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
        windows = ([kernel_size] * 2, [stride] * 2, [padding] * 2)
        outputs, places = torch.ops.aten.max_pool2d_with_indices(inputs, *windows)
        ctx.save_for_backward(places)
        ctx.windows, ctx.shape = windows, inputs.shape
        is_last = inputs.is_contiguous(memory_format=torch.channels_last) and not inputs.is_contiguous()
        ctx.layout = torch.channels_last if is_last else torch.contiguous_format
        result: Tensor = outputs
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        to_inputs = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient, to_inputs, *ctx.windows, [1, 1], False, places, grad_input=to_inputs
        )
        return to_inputs, None, None, None
