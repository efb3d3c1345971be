"""Losses of a predicted grid.

Shapes: B batch, 2 the logits (empty, occupied), D D D the x, y, z of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def voxel_cross_entropy(logits_B2DDD: Tensor, occupancy_BDDD: Tensor) -> Tensor:
    """Give the 2-class softmax cross-entropy, its mean over samples and voxels, as a scalar.

    ``occupancy`` holds 0 (empty) and 1 (occupied) in any type. Computed in float32 or, for float64 logits,
    in float64, also under autocast. Softmax over two classes is the logistic function of the difference of
    their logits, which is what is computed: the same value with a third of the memory.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    batch, *sides = occupancy_BDDD.shape
    if logits_B2DDD.shape != (batch, 2, *sides) or len(sides) != 3 or occupancy_BDDD.numel() == 0:
        raise ValueError(
            f"logits of shape {tuple(logits_B2DDD.shape)} and occupancy of shape {tuple(occupancy_BDDD.shape)} do "
            "not fit: (B, 2, D, D, D) and (B, D, D, D) are needed"
        )
    if occupancy_BDDD.device != logits_B2DDD.device:
        raise ValueError(f"logits are on {logits_B2DDD.device} but occupancy is on {occupancy_BDDD.device}")
    dtype = torch.promote_types(logits_B2DDD.dtype, torch.float32)
    with torch.autocast(logits_B2DDD.device.type, enabled=False):
        empty_BDDD, occupied_BDDD = logits_B2DDD.to(dtype).unbind(1)
        return F.binary_cross_entropy_with_logits(occupied_BDDD - empty_BDDD, occupancy_BDDD.to(dtype))
