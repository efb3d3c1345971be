"""Random batches: as many numbers as a real one has, so a benchmark needs no data."""

from __future__ import annotations

import torch
from torch import Tensor

from hvd_r2n2.config import Config
from hvd_r2n2.models import IMAGE_SIDE, ClassificationNetwork, Network
from hvd_r2n2.training.precision import weights_dtype

_CHANNELS = 3
_OCCUPIED = 0.1


def random_inputs(
    config: Config, model: Network, num_samples: int, num_views: int, device: torch.device
) -> dict[str, Tensor]:
    """Return network inputs and target of `num_samples` samples by name, drawn from `train.seed` alone."""
    generator = torch.Generator().manual_seed(config.train.seed)
    dtype = weights_dtype(config.train.dtype)
    if isinstance(model, ClassificationNetwork):
        shape = (num_samples, _CHANNELS, model.image_side, model.image_side)
        inputs = {
            "images": torch.rand(shape, generator=generator, dtype=dtype) * 255 - 128,
            "labels": torch.randint(model.options.num_classes, (num_samples,), generator=generator),
        }
        for name, width in model.options.dropout_masks.items():
            inputs[name] = torch.randint(2, (num_samples, width), generator=generator).to(dtype) * 2
    else:
        images = (num_views, num_samples, _CHANNELS, IMAGE_SIDE, IMAGE_SIDE)
        grid = (num_samples, *(config.model.voxel_resolution,) * 3)
        inputs = {
            "images": torch.rand(images, generator=generator, dtype=dtype),
            "occupancy": (torch.rand(grid, generator=generator) < _OCCUPIED).to(torch.uint8),
        }
    return {name: tensor.to(device) for name, tensor in inputs.items()}
