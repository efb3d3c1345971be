"""Linear layers whose weights outweigh their inputs: what a step of several micro-batches need do only once.

The plain way reads such a weight to convert it, writes a gradient of its size and adds that to the sum, for each
micro-batch: for the 25 million weights of 3D-R2N2's projection more work than the products themselves. Within a
`WideWork` the weight is converted once, and its gradient is one product over the rows of all micro-batches. The sum is
the same up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common.products import computing_dtype, product, product_dtype

_FEW_ROWS = 96
"""Up to so many rows, writing a gradient in another type and converting it takes longer than products in its own."""

_current = threading.local()


class WideWork:
    """What wide layers have put off within one step on one device; used by one thread at a time."""

    def __init__(self) -> None:
        self.is_last = False
        """Whether backward runs belong to the last micro-batch, and so give the whole gradient."""
        self._converted: dict[tuple[int, torch.dtype], Tensor] = {}
        self._rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._seen: set[int] = set()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let wide layers of this thread put off their work."""
        before = active_work()
        _current.work = self
        try:
            yield
        finally:
            _current.work = before

    def puts_off(self, weight: Tensor) -> bool:
        """Say whether a wide layer has used a weight, so that its gradient comes with the last micro-batch."""
        return id(weight) in self._seen

    def converted(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Give a wide layer's weight rounded to a type, in the type of its products, converted once."""
        self._seen.add(id(weight))
        key = (id(weight), dtype)
        if key not in self._converted:
            self._converted[key] = weight.detach().to(dtype).to(product_dtype(dtype, weight.device))
        return self._converted[key]

    def gradient(self, weight: Tensor, inputs_RI: Tensor, gradient_RO: Tensor) -> Tensor | None:
        """Take a micro-batch's rows in; give the weight's gradient over all rows if it is the last."""
        rows = self._rows.setdefault(id(weight), [])
        rows.append((inputs_RI, gradient_RO))
        if not self.is_last:
            return None
        del self._rows[id(weight)]
        all_inputs, all_gradients = (torch.cat(parts) for parts in zip(*rows, strict=True))
        is_few = len(all_inputs) <= _FEW_ROWS
        dtype = weight.dtype if is_few else product_dtype(all_inputs.dtype, weight.device)
        return (all_gradients.to(dtype).t() @ all_inputs.to(dtype)).to(weight.dtype)


def active_work() -> WideWork | None:
    """Give the work that is active in this thread."""
    found: WideWork | None = getattr(_current, "work", None)
    return found


def wide_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give `F.linear`; within a `WideWork`, whose weight's gradient comes with the last micro-batch."""
    work = active_work()
    if work is None or not weight.requires_grad:
        return product(F.linear, inputs, weight, bias)
    outputs: Tensor = _WideLinear.apply(inputs, weight, work)  # type: ignore[no-untyped-call]
    return outputs if bias is None else outputs + bias.to(outputs.dtype)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, work: WideWork) -> Tensor:
        dtype = computing_dtype(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            rows, converted = inputs.to(dtype), work.converted(weight, dtype)
            ctx.save_for_backward(rows, converted)
            ctx.weight, ctx.work, ctx.dtype = weight, work, inputs.dtype
            return F.linear(rows.to(converted.dtype), converted).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        rows, converted = ctx.saved_tensors
        to_inputs = (gradient.to(converted.dtype) @ converted).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        to_weight = ctx.work.gradient(ctx.weight, rows.flatten(0, -2), gradient.flatten(0, -2))
        return to_inputs, to_weight, None
