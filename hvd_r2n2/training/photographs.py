"""Photographs of any size brought to the form of the training pictures: 137×137 RGBA, the background transparent.

Legend of suffixes: H height, W width, C colour channels (RGBA).
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hvd_r2n2.data.picture_file import read_picture_file

Picture = npt.NDArray[np.uint8]

PICTURE_SIDE = 137
"""Side in pixels of ShapeNet's renderings, which are cropped to 127 as in training."""

OBJECT_SHARE = 0.65
"""Longest side of the object's bounding box over the picture's: the mean of 72 renderings of three models."""

BACKGROUND_TOLERANCE = 24
"""Largest difference in any channel (of 255) from the border's median colour that still is background."""

_PLAIN_SHARE = 0.7  # of the border: the object may touch it, as a chair's legs do
_WORKING_SIDE = 1024
_FAINT_ALPHA, _OPAQUE_ALPHA = 32, 250


def read_photograph(path: Path) -> Picture:
    """Read a picture file and bring it to the form of the training pictures: uint8 137×137×4.

    Where there is no transparency, a plain background is recognised by the colour of the border, and what is joined
    to the border in that colour becomes transparent; enclosed patches of it stay. A picture of 137×137 pixels keeps
    its framing; any other is scaled and padded so that the object lies in the middle and takes `OBJECT_SHARE`.

    Raises:
        ValueError: not a picture, damaged, too large, wholly transparent, or without a plain background; the
            message names the file and what to do.
        OSError: the file is missing or cannot be read.
    """
    hint = f"make it smaller, {PICTURE_SIDE}×{PICTURE_SIDE} is all that the network sees"
    image = read_picture_file(path, hint)
    framing_kept = image.size == (PICTURE_SIDE, PICTURE_SIDE)
    image.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.LANCZOS)
    image_HWC = np.array(image)
    if image_HWC[..., 3].min() >= _OPAQUE_ALPHA:
        image_HWC[..., 3] = np.where(_plain_background(image_HWC, path), 0, 255)
        nothing_left = "holds nothing but a plain background"
    else:
        nothing_left = "is wholly transparent, or nearly so"
    if image_HWC[..., 3].max() < _FAINT_ALPHA:
        raise ValueError(f"{path} {nothing_left}: there is no object to reconstruct")
    return image_HWC if framing_kept else _centre_object(image_HWC)


def _plain_background(image_HWC: Picture, path: Path) -> npt.NDArray[np.bool_]:
    """Find the background of an opaque picture: what is joined to the border and has its colour (bool, H×W)."""
    colours_HWC = image_HWC[..., :3].astype(np.int16)
    border = np.concatenate((colours_HWC[0], colours_HWC[-1], colours_HWC[:, 0], colours_HWC[:, -1]))
    colour = np.median(border, axis=0)
    share = float((np.abs(border - colour).max(axis=1) <= BACKGROUND_TOLERANCE).mean())
    if share < _PLAIN_SHARE:
        raise ValueError(
            f"{path} has no transparency, and its background is not plain: only {share:.0%} of its border has one "
            f"colour, {_PLAIN_SHARE:.0%} are needed. Cut the object out and save it as PNG with a transparent "
            "background, or photograph it before a plain wall or sheet"
        )
    return _joined_to_border(np.abs(colours_HWC - colour).max(axis=-1) <= BACKGROUND_TOLERANCE)


def _joined_to_border(similar_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the part of the mask that is 4-connected to the picture's border.

    A run is a stretch of the mask along a row or column. Whole runs are filled at once, rows and columns in turn, so
    that the number of rounds is the number of bends of the most winding way, not its length.
    """
    reached_HW = np.zeros_like(similar_HW)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        reached_HW[edge] = similar_HW[edge]
    row_runs_HW = _number_runs(similar_HW)
    column_runs_HW = _number_runs(similar_HW.T).T
    num_reached = -1
    while num_reached != (num_reached := int(reached_HW.sum())):
        for runs_HW in (row_runs_HW, column_runs_HW):
            touched = np.zeros(int(runs_HW.max()) + 1, dtype=np.bool_)
            touched[runs_HW[reached_HW]] = True
            reached_HW = touched[runs_HW] & similar_HW
    return reached_HW


def _number_runs(mask_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number the runs of true cells along the rows from 1; the numbers at false cells mean nothing."""
    starts_HW = mask_HW.copy()
    starts_HW[:, 1:] &= ~mask_HW[:, :-1]
    return starts_HW.ravel().cumsum().reshape(mask_HW.shape)


def _centre_object(image_HWC: Picture) -> Picture:
    """Cut a square around the object, padded with transparency, and scale it to a training picture."""
    rows, columns = np.nonzero(image_HWC[..., 3] >= _FAINT_ALPHA)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = math.ceil(max(bottom - top, right - left) / OBJECT_SHARE)
    corner_x, corner_y = (left + right - side) // 2, (top + bottom - side) // 2
    square = Image.fromarray(image_HWC).crop((corner_x, corner_y, corner_x + side, corner_y + side))
    scaled_HWC = np.array(square.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS))
    # Training replaces only what is wholly transparent: no faint fringe may be left by the scaling.
    scaled_HWC[scaled_HWC[..., 3] < _FAINT_ALPHA] = 0
    return scaled_HWC
