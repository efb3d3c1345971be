"""Batches as visible rectangles: the same pictures, and augmented to the same bits as whole ones."""

import numpy as np
import pytest
import torch

from hvd_r2n2.data.augment import RENDERING_FRAMING, _gather_all, _paste_all, augment, augment_packed, draw_batch
from hvd_r2n2.data.packed import PackedPictures, Rectangles, pack, whole_pictures

SIDE = 137
# In the middle; at each corner, where crops cut it; in the part that no crop at 9 shows; one pixel; nothing; all.
BOXES = [
    (40, 30, 50, 70),
    (0, 0, 20, 90),
    (100, 120, 37, 17),
    (0, 3, 5, 5),
    (130, 0, 7, 137),
    (68, 68, 1, 1),
    (0, 0, 0, 0),
    (0, 0, 137, 137),
]


def pictures(num_views: int, batch_size: int) -> tuple[torch.Tensor, PackedPictures]:
    """Whole pictures, with holes in what is visible, and the same ones packed."""
    generator = np.random.default_rng(1)
    images_VBHWC = np.zeros((num_views, batch_size, SIDE, SIDE, 4), dtype=np.uint8)
    samples = []
    for sample in range(batch_size):
        boxes, contents = [], []
        for view in range(num_views):
            top, left, height, width = box = BOXES[(sample * num_views + view) % len(BOXES)]
            content = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
            content[generator.random((height, width)) < 0.4, 3] = 0  # with the colour of what is hidden
            images_VBHWC[view, sample, top : top + height, left : left + width] = content
            boxes.append(box)
            contents.append(content.reshape(-1))
        samples.append(Rectangles(boxes, contents))
    return torch.from_numpy(images_VBHWC), pack(samples, SIDE)


@pytest.mark.parametrize(("num_views", "batch_size"), [(1, 1), (2, 4), (4, 2), (3, 8)])
def test_what_is_packed_can_be_unpacked(num_views: int, batch_size: int) -> None:
    images, packed = pictures(num_views, batch_size)
    assert torch.equal(packed.unpack(), images)
    assert torch.equal(whole_pictures(images).unpack(), images)
    assert packed.pixels_P.numel() == packed.boxes_VB4[..., 2:].prod(-1).sum()


def test_whole_pictures_of_several_views_keep_their_places() -> None:
    images, _ = pictures(2, 3)
    rows = [
        Rectangles([(0, 0, SIDE, SIDE)] * 2, [image.reshape(-1).numpy() for image in images[:, b]]) for b in range(3)
    ]
    packed = pack(rows, SIDE)
    assert packed.is_whole
    assert torch.equal(packed.unpack(), images)


def test_pictures_of_nothing_at_all_are_background() -> None:
    nothing = pack([Rectangles([(0, 0, 0, 0)], [np.zeros(0, np.uint8)])], SIDE)
    assert not nothing.is_whole
    assert not nothing.unpack().any()
    _, draws = draw_batch(0, [(0, 0)], num_views=1, num_renderings=24)
    for augment_all in (_gather_all, _paste_all):
        coloured = augment_all(nothing, draws, RENDERING_FRAMING)
        assert torch.equal(coloured, draws.background_VB3.reshape(1, 3, 1, 1).expand(1, 3, 127, 127))


def slow_augment(image_HWC: np.ndarray, offset: list[int], flip: bool, background: list[int]) -> np.ndarray:
    """One picture, one pixel after the other: colour, crop, flip."""
    result = np.empty((3, 127, 127))
    for row in range(127):
        for column in range(127):
            pixel = image_HWC[offset[0] + row, offset[1] + column]
            result[:, row, 126 - column if flip else column] = background if pixel[3] == 0 else pixel[:3]
    return result / 255


def test_both_ways_to_augment_give_what_one_pixel_after_the_other_gives() -> None:
    """The one for GPUs as well, here on the CPU."""
    images, packed = pictures(4, 8)
    _, draws = draw_batch(3, [(0, sample) for sample in range(8)], num_views=4, num_renderings=24)
    draws.offsets_VB2[0, :2], draws.offsets_VB2[1, :2] = 0, 9
    assert draws.flips_VB.any()
    assert not draws.flips_VB.all()
    augmented = augment_packed(packed, draws, torch.float64)
    for view in range(4):
        for sample in range(8):
            one = slow_augment(
                images[view, sample].numpy(),
                draws.offsets_VB2[view, sample].tolist(),
                bool(draws.flips_VB[view, sample]),
                draws.background_VB3[view, sample].tolist(),
            )
            np.testing.assert_array_equal(augmented[view, sample].numpy(), one)
    assert torch.equal(augment(images, draws, torch.float64), augmented)
    pasted, gathered = (way(packed, draws, RENDERING_FRAMING) for way in (_paste_all, _gather_all))
    assert torch.equal(pasted, gathered)
    assert torch.equal(_paste_all(whole_pictures(images), draws, RENDERING_FRAMING), pasted)
