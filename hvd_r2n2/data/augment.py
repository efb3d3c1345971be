"""Augmentation: random crop, flip and background colour of each picture; and the centre crop of evaluation.

Legend: V views, B batch, N pictures (V·B), H×W the sides of a picture or of its crop, C channels.

Source: chrischoy/3D-R2N2, lib/data_augmentation.py and lib/data_process.py. The original draws from a global
generator in the order of its workers; here each sample's numbers depend on (seed, epoch, sample) only. The crops
and flips of labelled pictures are those of Krizhevsky, Sutskever and Hinton 2012, section 4.1, without the changes of
brightness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.packed import PackedPictures, whole_pictures
from hvd_r2n2.data.random_numbers import Purpose, uniform_rows

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

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "AugmentationDraws":
        """Return the draws with each tensor replaced by the function of it."""
        return AugmentationDraws(*map(function, self.tensors()))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all tensors, in the order of the fields."""
        return self.offsets_VB2, self.flips_VB, self.background_VB3


def draw_batch(
    seed: int,
    places: Sequence[tuple[int, int]],
    *,
    num_views: int,
    num_renderings: int,
    framing: Framing = RENDERING_FRAMING,
    random_crop: bool = True,
    flip_probability: float = 0.5,
    background: tuple[int, int] = (225, 255),
) -> tuple[list[list[int]], AugmentationDraws]:
    """Draw for each (epoch, sample) the views, with replacement, and their crop, flip and background colour.

    View v of a sample has the same draws whatever the number of views and the other samples are, and a switch does not
    change the other draws. The range of the background includes both ends.

    Returns:
        Each sample's views, and the draws of all.
    """
    numbers = uniform_rows(Purpose.SAMPLE, seed, places, num_views * _NUMBERS_A_VIEW)
    numbers_VB7 = numbers.reshape(len(places), num_views, _NUMBERS_A_VIEW).swapaxes(0, 1)
    low, high = background
    offsets_VB2 = (numbers_VB7[..., 1:3] * framing.num_offsets).astype(np.int64)
    draws = AugmentationDraws(
        torch.from_numpy(offsets_VB2 if random_crop else np.full_like(offsets_VB2, framing.centre_offset)),
        torch.from_numpy(numbers_VB7[..., 3] < flip_probability),
        torch.from_numpy((low + numbers_VB7[..., 4:] * (high - low + 1)).astype(np.uint8)),
    )
    return (numbers_VB7[..., 0] * num_renderings).astype(np.int64).T.tolist(), draws


def centre_draws(
    num_views: int,
    batch_size: int,
    framing: Framing = RENDERING_FRAMING,
    device: torch.device | None = None,
) -> AugmentationDraws:
    """Return the draws of evaluation, on the CPU or a device: the centre, unflipped, on one grey."""
    return AugmentationDraws(
        torch.full((num_views, batch_size, 2), framing.centre_offset, dtype=torch.int64, device=device),
        torch.zeros((num_views, batch_size), dtype=torch.bool, device=device),
        torch.full((num_views, batch_size, 3), EVALUATION_BACKGROUND, dtype=torch.uint8, device=device),
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
    _check_pictures(images_VBHWC, RENDERING_FRAMING)
    return augment_packed(whole_pictures(images_VBHWC), draws, dtype)


def augment_packed(
    pictures: PackedPictures, draws: AugmentationDraws, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Do as `augment` does, from the visible rectangles of renderings, with the same result to the bit."""
    num_views, batch_size = pictures.starts_VB.shape
    if pictures.pixels_P.device.type == "cpu":
        coloured_NCHW = _paste_all(pictures, draws, RENDERING_FRAMING)
    else:
        coloured_NCHW = _gather_all(pictures, draws, RENDERING_FRAMING)
    scaled_NCHW = coloured_NCHW.to(dtype).div_(255)
    return scaled_NCHW.reshape(num_views, batch_size, *scaled_NCHW.shape[1:])


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
    _check_pictures(images_VBHWC, framing)
    num_pictures = images_VBHWC.shape[0] * images_VBHWC.shape[1]
    rows_NH, columns_NW = _places(draws, framing)
    # One pixel is one 32-bit word: a quarter of the elements to gather.
    pixels_N = images_VBHWC.contiguous().view(torch.int32).reshape(num_pictures, framing.picture_side**2)
    places_NHW = rows_NH[:, :, None] * framing.picture_side + columns_NW[:, None, :]
    crop_N = pixels_N.gather(1, places_NHW.reshape(num_pictures, -1))
    crop_NHWC = crop_N.view(torch.uint8).reshape(num_pictures, framing.crop_side, framing.crop_side, 4)
    return crop_NHWC, draws.background_VB3.reshape(num_pictures, 1, 1, 3)


def _check_pictures(images_VBHWC: torch.Tensor, framing: Framing) -> None:
    side = framing.picture_side
    if images_VBHWC.shape[2:] != (side, side, 4) or images_VBHWC.dtype != torch.uint8:
        raise ValueError(
            f"pictures must be V×B×{side}×{side}×4 uint8, not {tuple(images_VBHWC.shape)} {images_VBHWC.dtype}"
        )


def _places(draws: AugmentationDraws, framing: Framing) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row N×H and the column N×W of a picture that each row and column of its crop shows."""
    span = torch.arange(framing.crop_side, device=draws.offsets_VB2.device)
    offsets_N2 = draws.offsets_VB2.reshape(-1, 2)
    across_NW = torch.where(draws.flips_VB.reshape(-1, 1), framing.crop_side - 1 - span, span)
    return offsets_N2[:, :1] + span, offsets_N2[:, 1:] + across_NW


def _gather_all(pictures: PackedPictures, draws: AugmentationDraws, framing: Framing) -> torch.Tensor:
    """Crop, flip and colour all pictures at once, N×3×H×W uint8: what a GPU is fast at."""
    rows_NH, columns_NW = _places(draws, framing)
    boxes_N4 = pictures.boxes_VB4.reshape(-1, 4)
    top_N1, left_N1, height_N1, width_N1 = (boxes_N4[:, number : number + 1] for number in range(4))
    rows_NH, columns_NW = rows_NH - top_N1, columns_NW - left_N1
    inside_NH = (rows_NH >= 0) & (rows_NH < height_N1)
    inside_NW = (columns_NW >= 0) & (columns_NW < width_N1)
    inside_NHW = inside_NH[:, :, None] & inside_NW[:, None, :]
    begins_NH = pictures.starts_VB.reshape(-1, 1) + rows_NH * width_N1
    places_NHW = torch.where(inside_NHW, begins_NH[:, :, None] + columns_NW[:, None, :], 0)
    crop_NHWC = pictures.pixels_P[places_NHW].view(torch.uint8).reshape(*places_NHW.shape, 4)
    is_visible_NHW1 = (inside_NHW & (crop_NHWC[..., 3] != 0))[..., None]
    coloured_NHWC = torch.where(is_visible_NHW1, crop_NHWC[..., :3], draws.background_VB3.reshape(-1, 1, 1, 3))
    return coloured_NHWC.permute(0, 3, 1, 2).contiguous()


def _paste_all(pictures: PackedPictures, draws: AugmentationDraws, framing: Framing) -> torch.Tensor:
    """Do as `_gather_all` does, picture by picture: a core works on whole rows, and on what is visible alone."""
    side = framing.crop_side
    backgrounds_N3 = draws.background_VB3.reshape(-1, 3).numpy()
    coloured_NCHW = np.empty((len(backgrounds_N3), 3, side, side), dtype=np.uint8)
    pixels_P = pictures.pixels_P.numpy()
    boxes, starts = pictures.boxes_VB4.reshape(-1, 4).tolist(), pictures.starts_VB.reshape(-1).tolist()
    offsets, flips = draws.offsets_VB2.reshape(-1, 2).tolist(), draws.flips_VB.reshape(-1).tolist()
    for number, ((top, left, height, width), start) in enumerate(zip(boxes, starts, strict=True)):
        (first_row, first_column), into_CHW = offsets[number], coloured_NCHW[number]
        into_CHW[:] = backgrounds_N3[number, :, None, None]
        rows = slice(max(top, first_row), min(top + height, first_row + side))
        columns = slice(max(left, first_column), min(left + width, first_column + side))
        if rows.stop <= rows.start or columns.stop <= columns.start:
            continue
        rectangle_HW = pixels_P[start : start + height * width].reshape(height, width)
        seen_HW = rectangle_HW[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if flips[number]:
            seen_HW = seen_HW[:, ::-1]
            columns = slice(first_column + side - columns.stop, first_column + side - columns.start)
        else:
            columns = slice(columns.start - first_column, columns.stop - first_column)
        window_CHW = into_CHW[:, rows.start - first_row : rows.stop - first_row, columns]
        _paste(seen_HW, backgrounds_N3[number], window_CHW)
    return torch.from_numpy(coloured_NCHW)


def _paste(pixels_HW: npt.NDArray[np.int32], background_3: npt.NDArray[np.uint8], into: npt.NDArray[np.uint8]) -> None:
    """Write the colours of RGBA pixels into three planes, the background's where alpha is 0."""
    height, width = pixels_HW.shape
    planes_CHW = np.ascontiguousarray(
        np.ascontiguousarray(pixels_HW).view(np.uint8).reshape(height, width, 4).transpose(2, 0, 1)
    )
    is_hidden_HW = (planes_CHW[3] == 0).view(np.uint8)
    # Sums of products with 0 and 1: choosing by a mask takes twice the time.
    planes_CHW[:3] *= 1 - is_hidden_HW
    for plane_HW, colour, into_HW in zip(planes_CHW, background_3, into, strict=False):
        np.add(plane_HW, is_hidden_HW * colour, out=into_HW)


def centre_crop(images_VBHWC: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Prepare pictures as evaluation does: `augment` with the centre crop on one grey."""
    draws = centre_draws(images_VBHWC.shape[0], images_VBHWC.shape[1], device=images_VBHWC.device)
    return augment(images_VBHWC, draws, dtype)
