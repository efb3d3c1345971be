"""Products in bfloat16, also on CPUs without instructions for them.

torch computes them in software there, with AVX2 some hundred times slower than in float32. Here the numbers are rounded
to bfloat16 and then multiplied and summed in float32, which is what those instructions do, and the sums are rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hvd_r2n2.common.hardware import bfloat16_hardware
from hvd_r2n2.common.kept_weights import kept, stays


def computing_dtype(inputs: Tensor) -> torch.dtype:
    """Give the type of what a layer makes of its inputs: autocast's on their device, or their own."""
    kind = inputs.device.type
    if inputs.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):  # which autocast leaves alone
        return inputs.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Give the type in which a device should multiply and sum numbers that have been rounded to a type."""
    in_float32 = dtype == torch.bfloat16 and device.type == "cpu" and not _cpu_has_bfloat16()
    return torch.float32 if in_float32 else dtype


def product(
    function: Callable[..., Tensor], inputs: Tensor, weight: Tensor, bias: Tensor | None = None, **settings: Any
) -> Tensor:
    """Give torch's linear layer or convolution `function` of inputs, weight and bias; under autocast in its type.

    Where it multiplies in float32, backward keeps the rounded numbers in float32 too.
    """
    dtype, device = computing_dtype(inputs), inputs.device
    inner = product_dtype(dtype, device)
    if inner == dtype and (weight.dtype == dtype or not stays(weight)):
        return function(inputs, weight, bias, **settings)
    with torch.autocast(device.type, enabled=False):
        own_inputs, own_bias = (None if tensor is None else tensor.to(dtype).to(inner) for tensor in (inputs, bias))
        own_weight = kept(weight, (dtype, inner), lambda: weight.to(dtype).to(inner))
        return function(own_inputs, own_weight, own_bias, **settings).to(dtype)


@functools.cache
def _cpu_has_bfloat16() -> bool:
    if bfloat16_hardware("cpu") is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # else torch leaves the instructions unused
