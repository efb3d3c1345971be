"""Augmentation: random crop, flip and background colour of each picture; and the centre crop of evaluation.

Legend: V views, B batch, N pictures (V·B), H×W the sides of a picture or of its crop, C channels.

Source: chrischoy/3D-R2N2, lib/data_augmentation.py and lib/data_process.py. The original draws from a global
generator in the order of its workers; here each sample's numbers depend on (seed, epoch, sample) only. The crops
and flips of labelled pictures are those of Krizhevsky, Sutskever and Hinton 2012, section 4.1, without the changes of
brightness.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.random_numbers import Purpose, uniform_numbers

CROP_SIZE = 127
EVALUATION_BACKGROUND = 240

_NUMBERS_A_VIEW = 7


@dataclass(frozen=True)
class Framing:
    """The side of square pictures, that of the crops, and how many offsets of a crop's corner are drawn: 0, 1, ..."""

    picture_side: int
    crop_side: int
    num_offsets: int

    @property
    def centre_offset(self) -> int:
        """The offset of the crop of evaluation."""
        return (self.picture_side - self.crop_side) // 2


# Offsets 0 ... 9, as in the original; 10 would fit, but is never drawn.
RENDERING_FRAMING = Framing(IMAGE_SIZE, CROP_SIZE, num_offsets=IMAGE_SIZE - CROP_SIZE)
"""Of 3D-R2N2's renderings."""


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
    framing: Framing = RENDERING_FRAMING,
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
    offsets_V2 = (numbers_V7[:, 1:3] * framing.num_offsets).astype(np.int64)
    return SampleDraws(
        views=tuple((numbers_V7[:, 0] * num_renderings).astype(np.int64).tolist()),
        offsets_V2=offsets_V2 if random_crop else np.full_like(offsets_V2, framing.centre_offset),
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


def centre_draws(
    num_views: int,
    batch_size: int,
    background: int = EVALUATION_BACKGROUND,
    framing: Framing = RENDERING_FRAMING,
) -> AugmentationDraws:
    """Return the draws of evaluation: the centre, unflipped, on one grey."""
    return AugmentationDraws(
        torch.full((num_views, batch_size, 2), framing.centre_offset, dtype=torch.int64),
        torch.zeros((num_views, batch_size), dtype=torch.bool),
        torch.full((num_views, batch_size, 3), background, dtype=torch.uint8),
    )


def augment(images_VBHWC: torch.Tensor, draws: AugmentationDraws, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Crop and flip each rendering, and colour its background where it is wholly transparent, by its draws.

    Args:
        images_VBHWC: uint8 RGBA, 137×137, on any device.
        draws: On the same device.
        dtype: Of the result.

    Returns:
        V×B×3×127×127 in [0, 1].
    """
    crop_NHWC, background_N113 = _crop(images_VBHWC, draws, RENDERING_FRAMING)
    coloured_NHWC = torch.where(crop_NHWC[..., 3:] == 0, background_N113, crop_NHWC[..., :3])
    scaled_NCHW = coloured_NHWC.permute(0, 3, 1, 2).contiguous().to(dtype) / 255
    return scaled_NCHW.reshape(*images_VBHWC.shape[:2], *scaled_NCHW.shape[1:])


def augment_labelled(
    images_VBHWC: torch.Tensor, draws: AugmentationDraws, framing: Framing, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Crop and flip each picture and put it before a background, by its draws.

    Args:
        images_VBHWC: uint8 RGBA of the framing's side, on any device.
        draws: On the same device.
        framing: Of these pictures.
        dtype: Of the result.

    Returns:
        V×B×3×H×W of the crop's side, from -128 to 127: AlexNet's input is the raw values less their mean, and its
        first weights and normalisation are made for that range; one grey stands here for the picture of means.
    """
    crop_NHWC, background_N113 = _crop(images_VBHWC, draws, framing)
    alpha_NHW1 = crop_NHWC[..., 3:].to(dtype) / 255
    background_N113 = background_N113.to(dtype)
    blended_NHWC = background_N113 + alpha_NHW1 * (crop_NHWC[..., :3].to(dtype) - background_N113)
    centred_NCHW = blended_NHWC.permute(0, 3, 1, 2).contiguous() - 128
    return centred_NCHW.reshape(*images_VBHWC.shape[:2], *centred_NCHW.shape[1:])


def _crop(images_VBHWC: torch.Tensor, draws: AugmentationDraws, framing: Framing) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cropped and flipped RGBA pictures N×H×W×4 and their background colours N×1×1×3, both uint8."""
    side, crop_side = framing.picture_side, framing.crop_side
    num_views, batch_size, *picture = images_VBHWC.shape
    if picture != [side, side, 4] or images_VBHWC.dtype != torch.uint8:
        raise ValueError(
            f"pictures must be V×B×{side}×{side}×4 uint8, not {tuple(images_VBHWC.shape)} {images_VBHWC.dtype}"
        )
    num_pictures = num_views * batch_size
    span = torch.arange(crop_side, device=images_VBHWC.device)
    offsets_N2 = draws.offsets_VB2.reshape(num_pictures, 2)
    flips_N1 = draws.flips_VB.reshape(num_pictures, 1)
    rows_NH = offsets_N2[:, :1] + span
    columns_NW = offsets_N2[:, 1:] + torch.where(flips_N1, crop_side - 1 - span, span)
    # One pixel is one 32-bit word: a quarter of the elements to gather.
    pixels_N = images_VBHWC.contiguous().view(torch.int32).reshape(num_pictures, side * side)
    places_NHW = rows_NH[:, :, None] * side + columns_NW[:, None, :]
    crop_N = pixels_N.gather(1, places_NHW.reshape(num_pictures, -1))
    crop_NHWC = crop_N.view(torch.uint8).reshape(num_pictures, crop_side, crop_side, 4)
    return crop_NHWC, draws.background_VB3.reshape(num_pictures, 1, 1, 3)


def centre_crop(
    images_VBHWC: torch.Tensor, background: int = EVALUATION_BACKGROUND, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Prepare pictures as evaluation does: `augment` with the centre crop on one grey."""
    draws = centre_draws(images_VBHWC.shape[0], images_VBHWC.shape[1], background)
    return augment(images_VBHWC, draws.to(images_VBHWC.device), dtype)
