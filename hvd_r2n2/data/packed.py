"""Pictures of a batch as their visible rectangles alone: a quarter of the bytes to copy, also to a GPU.

Legend: V views, B batch, N pictures (V·B), H×W the sides of a picture, P pixels of all rectangles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_PIXEL_BYTES = 4


@dataclass(frozen=True)
class Rectangles:
    """What can be seen of a sample's pictures: outside of its rectangle, all of a picture is transparent."""

    boxes: Sequence[Sequence[int]]
    """Top, left, height and width of each."""
    contents: Sequence[npt.NDArray[np.uint8]]
    """The RGBA bytes of each, row by row, without axes; not copied yet, where they lie in a mapped file."""


@dataclass(frozen=True)
class PackedPictures:
    """V×B square RGBA pictures, of each the one rectangle outside which all is zero, end to end.

    `pixels_P` int32, one RGBA pixel a word; `boxes_VB4` int64: top, left, height, width; `starts_VB` int64: where each
    rectangle begins in `pixels_P`.
    """

    pixels_P: torch.Tensor
    boxes_VB4: torch.Tensor
    starts_VB: torch.Tensor
    side: int

    @property
    def is_whole(self) -> bool:
        """Whether every rectangle is the whole picture; known without asking a GPU."""
        return self.pixels_P.numel() == self.starts_VB.numel() * self.side**2

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "PackedPictures":
        """Return the pictures with each tensor replaced by the function of it."""
        return PackedPictures(function(self.pixels_P), function(self.boxes_VB4), function(self.starts_VB), self.side)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all tensors, in the order of the fields."""
        return self.pixels_P, self.boxes_VB4, self.starts_VB

    def unpack(self) -> torch.Tensor:
        """Return the pictures themselves: V×B×H×W×4 uint8."""
        shape = (*self.starts_VB.shape, self.side, self.side)
        if self.is_whole:
            images_NHW = self.pixels_P.reshape(-1, self.side, self.side)[self.starts_VB.reshape(-1) // self.side**2]
            return images_NHW.view(torch.uint8).reshape(*shape, _PIXEL_BYTES)
        images_NHW = torch.zeros((self.starts_VB.numel(), *shape[2:]), dtype=torch.int32, device=self.pixels_P.device)
        boxes = self.boxes_VB4.reshape(-1, 4).tolist()
        starts = self.starts_VB.reshape(-1).tolist()
        for image_HW, (top, left, height, width), start in zip(images_NHW, boxes, starts, strict=True):
            rectangle = self.pixels_P[start : start + height * width].reshape(height, width)
            image_HW[top : top + height, left : left + width] = rectangle
        return images_NHW.view(torch.uint8).reshape(*shape, _PIXEL_BYTES)


def pack(samples: Sequence[Rectangles], side: int) -> PackedPictures:
    """Put the rectangles of a batch, samples with one number of views, end to end, each copied once."""
    boxes_BV4 = np.array([sample.boxes for sample in samples], dtype=np.int64)
    sizes_BV = boxes_BV4[..., 2] * boxes_BV4[..., 3]
    ends_BV = sizes_BV.cumsum().reshape(sizes_BV.shape)
    num_pixels = int(ends_BV[-1, -1])
    pixels_P = np.zeros(1, np.int32) if not num_pixels else np.empty(num_pixels, np.int32)
    if num_pixels:
        contents = [content for sample in samples for content in sample.contents]
        np.concatenate(contents, out=pixels_P.view(np.uint8))
    boxes_VB4, starts_VB = torch.from_numpy(boxes_BV4.swapaxes(0, 1)), torch.from_numpy((ends_BV - sizes_BV).T)
    return PackedPictures(torch.from_numpy(pixels_P), boxes_VB4, starts_VB, side)


def whole_pictures(images_VBHWC: torch.Tensor) -> PackedPictures:
    """Take pictures V×B×H×H×4 uint8 as they are, on their device."""
    num_views, batch_size, side = images_VBHWC.shape[:3]
    number = torch.arange(num_views * batch_size, device=images_VBHWC.device).reshape(num_views, batch_size)
    box = torch.tensor([0, 0, side, side], device=images_VBHWC.device)
    pixels_P = images_VBHWC.contiguous().view(torch.int32).reshape(-1)
    return PackedPictures(pixels_P, box.expand(num_views, batch_size, 4), number * side**2, side)
