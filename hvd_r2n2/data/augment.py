"""Augmentation as in 3D-R2N2: random crop, flip and background colour of each view; and the centre crop of evaluation.

Legend: V views, B batch, H×W the picture's 137×137 or the crop's 127×127, C channels.

Source: chrischoy/3D-R2N2, lib/data_augmentation.py and lib/data_process.py. The original draws from a global
generator in the order of its workers; here each sample's numbers depend on (seed, epoch, sample) only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.random_numbers import Purpose, uniform_numbers

CROP_SIZE = 127
EVALUATION_BACKGROUND = 240

_NUM_OFFSETS = IMAGE_SIZE - CROP_SIZE  # 0 ... 9, as in the original; 10 would fit, but is never drawn
_CENTRE_OFFSET = (IMAGE_SIZE - CROP_SIZE) // 2
_NUMBERS_A_VIEW = 7


@dataclass(frozen=True)
class AugmentationDraws:
    """What was drawn for each view of a batch.

    `offsets_VB2` int64 (row, column of the crop's corner), `flips_VB` bool, `background_VB3` uint8.
    """

    offsets_VB2: torch.Tensor
    flips_VB: torch.Tensor
    background_VB3: torch.Tensor

    def to(self, device: torch.device) -> "AugmentationDraws":
        """Return the draws on a device."""
        return AugmentationDraws(
            *(draw.to(device, non_blocking=True) for draw in (self.offsets_VB2, self.flips_VB, self.background_VB3))
        )

    def pin_memory(self) -> "AugmentationDraws":
        """Return the draws in page-locked memory."""
        return AugmentationDraws(
            self.offsets_VB2.pin_memory(), self.flips_VB.pin_memory(), self.background_VB3.pin_memory()
        )


@dataclass(frozen=True)
class SampleDraws:
    """What one sample of an epoch gets: V views (drawn with replacement) and their augmentation."""

    views: tuple[int, ...]
    offsets_V2: npt.NDArray[np.int64]
    flips_V: npt.NDArray[np.bool_]
    background_V3: npt.NDArray[np.uint8]


def draw_sample(
    seed: int,
    epoch: int,
    sample: int,
    *,
    num_views: int,
    num_renderings: int,
    random_crop: bool = True,
    flip_probability: float = 0.5,
    background: tuple[int, int] = (225, 255),
) -> SampleDraws:
    """Draw the views of a sample and their crop, flip and background colour (its range includes both ends).

    View v has the same draws whatever the number of views is, and a switch does not change the other draws.
    """
    numbers = uniform_numbers(Purpose.SAMPLE, seed, epoch, sample, num_views * _NUMBERS_A_VIEW)
    numbers_V7 = numbers.reshape(num_views, _NUMBERS_A_VIEW)
    low, high = background
    offsets_V2 = (numbers_V7[:, 1:3] * _NUM_OFFSETS).astype(np.int64)
    return SampleDraws(
        views=tuple((numbers_V7[:, 0] * num_renderings).astype(np.int64).tolist()),
        offsets_V2=offsets_V2 if random_crop else np.full_like(offsets_V2, _CENTRE_OFFSET),
        flips_V=numbers_V7[:, 3] < flip_probability,
        background_V3=(low + numbers_V7[:, 4:] * (high - low + 1)).astype(np.uint8),
    )


def stack_draws(samples: list[SampleDraws]) -> AugmentationDraws:
    """Join the draws of the samples of a batch, which have one number of views."""
    return AugmentationDraws(
        torch.from_numpy(np.stack([draws.offsets_V2 for draws in samples], axis=1)),
        torch.from_numpy(np.stack([draws.flips_V for draws in samples], axis=1)),
        torch.from_numpy(np.stack([draws.background_V3 for draws in samples], axis=1)),
    )


def centre_draws(num_views: int, batch_size: int, background: int = EVALUATION_BACKGROUND) -> AugmentationDraws:
    """Return the draws of evaluation: the centre, unflipped, on one grey."""
    return AugmentationDraws(
        torch.full((num_views, batch_size, 2), _CENTRE_OFFSET, dtype=torch.int64),
        torch.zeros((num_views, batch_size), dtype=torch.bool),
        torch.full((num_views, batch_size, 3), background, dtype=torch.uint8),
    )


def augment(images_VBHWC: torch.Tensor, draws: AugmentationDraws, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Crop, flip and colour the background of each view by its draws.

    Args:
        images_VBHWC: uint8 RGBA, 137×137, on any device.
        draws: On the same device.
        dtype: Of the result.

    Returns:
        V×B×3×127×127 in [0, 1].
    """
    num_views, batch_size, *picture = images_VBHWC.shape
    if picture != [IMAGE_SIZE, IMAGE_SIZE, 4] or images_VBHWC.dtype != torch.uint8:
        raise ValueError(
            f"pictures must be V×B×{IMAGE_SIZE}×{IMAGE_SIZE}×4 uint8, not {tuple(images_VBHWC.shape)} "
            f"{images_VBHWC.dtype}"
        )
    num_pictures = num_views * batch_size
    span = torch.arange(CROP_SIZE, device=images_VBHWC.device)
    offsets_N2 = draws.offsets_VB2.reshape(num_pictures, 2)
    flips_N1 = draws.flips_VB.reshape(num_pictures, 1)
    rows_NH = offsets_N2[:, :1] + span
    columns_NW = offsets_N2[:, 1:] + torch.where(flips_N1, CROP_SIZE - 1 - span, span)
    # One pixel is one 32-bit word: a quarter of the elements to gather.
    pixels_N = images_VBHWC.contiguous().view(torch.int32).reshape(num_pictures, IMAGE_SIZE * IMAGE_SIZE)
    places_NHW = rows_NH[:, :, None] * IMAGE_SIZE + columns_NW[:, None, :]
    crop_N = pixels_N.gather(1, places_NHW.reshape(num_pictures, -1))
    crop_NHWC = crop_N.view(torch.uint8).reshape(num_pictures, CROP_SIZE, CROP_SIZE, 4)
    background_N113 = draws.background_VB3.reshape(num_pictures, 1, 1, 3)
    coloured_NHWC = torch.where(crop_NHWC[..., 3:] == 0, background_N113, crop_NHWC[..., :3])
    scaled_NCHW = coloured_NHWC.permute(0, 3, 1, 2).contiguous().to(dtype) / 255
    return scaled_NCHW.reshape(num_views, batch_size, 3, CROP_SIZE, CROP_SIZE)


def centre_crop(
    images_VBHWC: torch.Tensor, background: int = EVALUATION_BACKGROUND, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Prepare pictures as evaluation does: `augment` with the centre crop on one grey."""
    draws = centre_draws(images_VBHWC.shape[0], images_VBHWC.shape[1], background)
    return augment(images_VBHWC, draws.to(images_VBHWC.device), dtype)
