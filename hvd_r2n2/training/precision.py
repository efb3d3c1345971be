"""The arithmetic that `train.dtype` names."""

from __future__ import annotations

import contextlib

import torch

DTYPES = ("float32", "bfloat16", "float64")
"""The names there are; bfloat16 is autocast over float32 weights."""


def weights_dtype(name: str) -> torch.dtype:
    """Return the type of weights, gradients and pictures."""
    return torch.float64 if name == "float64" else torch.float32


def autocast(name: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the forward pass runs: autocast for bfloat16, nothing otherwise."""
    if name == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
