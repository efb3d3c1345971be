"""Losses of predicted grids and classes, as functions or modules, and as the stage that ends a step.

Shapes: B batch, 2 the logits (empty, occupied), D D D the x, y, z of the grid; F a logit a class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.common.stages import NamedTensor, Read, Stage

LOSS = NamedTensor("loss", "")
VOXEL_LOGITS = NamedTensor("logits", "BCDHW")
CLASS_LOGITS = NamedTensor("logits", "BF")
OCCUPANCY = NamedTensor("occupancy", "BDHW")
LABELS = NamedTensor("labels", "B")


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


def class_cross_entropy(logits_BF: Tensor, labels_B: Tensor) -> Tensor:
    """Give the softmax cross-entropy over the classes, its mean over samples, as a scalar.

    ``labels`` are the numbers of the classes, of any integer type. Computed in float32 or, for float64 logits, in
    float64, also under autocast.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if logits_BF.ndim != 2 or labels_B.shape != logits_BF.shape[:1] or logits_BF.numel() == 0:
        raise ValueError(
            f"logits of shape {tuple(logits_BF.shape)} and labels of shape {tuple(labels_B.shape)} do not fit: "
            "(B, number of classes) and (B,) are needed"
        )
    if labels_B.device != logits_BF.device:
        raise ValueError(f"logits are on {logits_BF.device} but labels are on {labels_B.device}")
    dtype = torch.promote_types(logits_BF.dtype, torch.float32)
    with torch.autocast(logits_BF.device.type, enabled=False):
        return F.cross_entropy(logits_BF.to(dtype), labels_B.long())


class VoxelCrossEntropy(nn.Module):
    """`voxel_cross_entropy` as a module."""

    def forward(self, logits_B2DDD: Tensor, occupancy_BDDD: Tensor) -> Tensor:
        """Give the mean over samples and voxels."""
        return voxel_cross_entropy(logits_B2DDD, occupancy_BDDD)


class ClassCrossEntropy(nn.Module):
    """`class_cross_entropy` as a module."""

    def forward(self, logits_BF: Tensor, labels_B: Tensor) -> Tensor:
        """Give the mean over samples."""
        return class_cross_entropy(logits_BF, labels_B)


def voxel_loss_stage() -> Stage:
    """Give the stage ``loss`` of a network that reconstructs: reads ``logits`` and ``occupancy`` (B×D×D×D)."""
    return Stage("loss", VoxelCrossEntropy(), (Read(VOXEL_LOGITS), Read(OCCUPANCY)), (LOSS,))


def class_loss_stage() -> Stage:
    """Give the stage ``loss`` of a network that classifies: reads ``logits`` and ``labels`` (B)."""
    return Stage("loss", ClassCrossEntropy(), (Read(CLASS_LOGITS), Read(LABELS)), (LOSS,))
