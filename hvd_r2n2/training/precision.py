"""The arithmetic that `train.dtype` names."""

from __future__ import annotations

import contextlib

import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.hardware import bfloat16_hardware

DTYPES = ("float32", "bfloat16", "float64")
"""The names there are; bfloat16 is autocast over float32 weights."""


def weights_dtype(name: str) -> torch.dtype:
    """Return the type of weights, gradients and pictures."""
    return torch.float64 if name == "float64" else torch.float32


def autocast(name: str, device: torch.device, *, caches: bool = True) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the forward pass runs: autocast for bfloat16, nothing otherwise.

    With `caches` a weight that is used several times is converted once.
    """
    if name == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=caches)
    return contextlib.nullcontext()


def slow_ranks(name: str, device: torch.device, communicator: Communicator) -> str | None:
    """Return a note if ranks gain no speed by the type; all ranks call it, each with its own device."""
    if name != "bfloat16":
        return None
    found = communicator.all_gather_object((device.type, bfloat16_hardware(device.type)))
    texts = []
    for kind, means in (("cpu", "multiply in float32, not faster than"), ("cuda", "compute in software, slower than")):
        ranks = [str(rank) for rank, own in enumerate(found) if own == (kind, None)]
        if ranks:
            texts.append(f"rank(s) {', '.join(ranks)} have no hardware for it and {means} train.dtype=float32")
    return f"note: train.dtype=bfloat16: {'; '.join(texts)}" if texts else None


def set_tf32(allowed: bool) -> None:
    """Let this process's GPUs multiply float32 numbers as TF32, or not; float64 and bfloat16 are as ever.

    torch's defaults are TF32 in convolutions and float32 in products of matrices.
    """
    if not hasattr(torch.backends.cudnn, "fp32_precision"):  # before torch 2.9
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        return
    # From 2.9 on reading the older switches is an error where these two are not alike.
    precision = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
