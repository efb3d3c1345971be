"""Real networks, small, with their loss and random inputs, for tests of the split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.models import class_loss_stage, create_model, voxel_loss_stage


def reconstruction(
    name: str, *, cross: Sequence[str] | Literal["default"] | None = "default"
) -> tuple[nn.Module, tuple[Stage, ...]]:
    """Make one of 3D-R2N2's networks at 1/16 of its width, in float64, and its stages with the loss."""
    model = create_model(name, width=1 / 16, seed=0, cross=cross).double()
    return model, (*model.stages(), voxel_loss_stage())


def reconstruction_inputs(num_views: int, num_samples: int) -> dict[str, Tensor]:
    """Draw pictures and grids."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num_views, num_samples, 3, 127, 127, generator=generator, dtype=torch.float64)
    return {"images": images, "occupancy": torch.rand(num_samples, 32, 32, 32, generator=generator) < 0.3}


def classification(
    num_classes: int, *, cross: Sequence[str] | Literal["default"] | None = "default"
) -> tuple[nn.Module, tuple[Stage, ...]]:
    """Make AlexNet at 1/16 of its width, in float64, and its stages with the loss."""
    model = create_model("alexnet", width=1 / 16, seed=0, cross=cross, num_classes=num_classes).double()
    return model, (*model.stages(), class_loss_stage())


def classification_inputs(num_samples: int, num_classes: int) -> dict[str, Tensor]:
    """Draw pictures, labels and dropout masks (of 4096 / 16 features)."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 2, (2, num_samples, 256), generator=generator, dtype=torch.float64) * 2
    return {
        "images": torch.rand(num_samples, 3, 227, 227, generator=generator, dtype=torch.float64),
        "labels": torch.randint(0, num_classes, (num_samples,), generator=generator),
        "dropout6": masks[0],
        "dropout7": masks[1],
    }
