from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hvd_r2n2.data.augment import (
    AugmentationDraws,
    augment,
    centre_crop,
    centre_draws,
    draw_batch,
)


def random_pictures(num_views: int, batch_size: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num_views, batch_size, 137, 137, 4), dtype=np.uint8)
    images[generator.random(images.shape[:-1]) < 0.5, 3] = 0
    return images


def slow_augment(picture: np.ndarray, offset: tuple[int, int], flip: bool, background: list[int]) -> np.ndarray:
    """One picture, one pixel after the other, as the original's three steps say: colour, crop, flip."""
    result = np.empty((3, 127, 127))
    for row in range(127):
        for column in range(127):
            pixel = picture[offset[0] + row, offset[1] + column]
            colour = background if pixel[3] == 0 else pixel[:3]
            result[:, row, 126 - column if flip else column] = [int(channel) / 255 for channel in colour]
    return result


def test_each_view_is_cropped_flipped_and_coloured_as_one_pixel_after_the_other() -> None:
    images = random_pictures(2, 2)
    offsets = torch.tensor([[[0, 0], [9, 9]], [[3, 7], [8, 1]]])
    flips = torch.tensor([[False, True], [True, False]])
    background = torch.tensor([[[225, 255, 240], [1, 2, 3]], [[0, 255, 9], [230, 231, 232]]], dtype=torch.uint8)
    draws = AugmentationDraws(offsets, flips, background)
    result = augment(torch.from_numpy(images), draws, torch.float64)
    assert result.shape == (2, 2, 3, 127, 127)
    assert result.is_contiguous()
    single = augment(torch.from_numpy(images), draws)
    assert single.dtype == torch.float32
    for view in range(2):
        for sample in range(2):
            expected = slow_augment(
                images[view, sample],
                tuple(offsets[view, sample].tolist()),
                bool(flips[view, sample]),
                background[view, sample].tolist(),
            )
            np.testing.assert_array_equal(result[view, sample].numpy(), expected)
            np.testing.assert_allclose(single[view, sample].numpy(), expected, rtol=1e-6)


def test_pictures_in_any_memory_order_give_the_same() -> None:
    images = torch.from_numpy(random_pictures(1, 2))
    draws = centre_draws(1, 2)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(augment(strided, draws), augment(images, draws), rtol=0, atol=0)


def test_the_centre_crop_starts_at_five_on_grey_240() -> None:
    images = random_pictures(1, 1)
    expected = slow_augment(images[0, 0], (5, 5), False, [240, 240, 240])
    np.testing.assert_array_equal(centre_crop(torch.from_numpy(images), dtype=torch.float64)[0, 0].numpy(), expected)
    empty = centre_crop(torch.zeros(1, 1, 137, 137, 4, dtype=torch.uint8), dtype=torch.float64)
    assert (empty == 240 / 255).all()


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 1, 127, 127, 4, dtype=torch.uint8), torch.zeros(1, 1, 137, 137, 4)], ids=["size", "dtype"]
)
def test_other_pictures_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be V×B×137×137×4 uint8"):
        augment(images, centre_draws(1, 1))


@dataclass(frozen=True)
class Drawn:
    """What one sample got."""

    views: list[int]
    offsets_V2: np.ndarray
    flips_V: np.ndarray
    background_V3: np.ndarray


def draw_all(places: Sequence[tuple[int, int]], num_views: int = 4, seed: int = 0, **settings: object) -> list[Drawn]:
    views, draws = draw_batch(seed, places, num_views=num_views, num_renderings=24, **settings)  # type: ignore[arg-type]
    drawn = (draws.offsets_VB2, draws.flips_VB, draws.background_VB3)
    return [Drawn(chosen, *(draw[:, number].numpy() for draw in drawn)) for number, chosen in enumerate(views)]


def draw(sample: int, num_views: int = 4, epoch: int = 0, seed: int = 0, **settings: object) -> Drawn:
    return draw_all([(epoch, sample)], num_views, seed, **settings)[0]


def test_the_draws_follow_from_the_sample_s_own_numbers() -> None:
    """Written out for one sample, since runs are resumed, and compared, by these numbers."""
    raw = np.random.Philox(key=[5, 3], counter=[0, 17, 2, 0]).random_raw(3 * 7).tolist()
    drawn = draw(17, num_views=3, epoch=2, seed=5)
    for view in range(3):
        chosen, row, column, flip, *colour = [(number >> 11) / 2**53 for number in raw[7 * view : 7 * view + 7]]
        assert drawn.views[view] == int(chosen * 24)
        assert drawn.offsets_V2[view].tolist() == [int(row * 10), int(column * 10)]
        assert drawn.flips_V[view] == (flip < 0.5)
        assert drawn.background_V3[view].tolist() == [int(225 + channel * 31) for channel in colour]


def test_the_draws_have_the_distributions_of_the_original() -> None:
    samples = draw_all([(0, sample) for sample in range(2000)])  # 8000 views
    views = np.bincount([view for one in samples for view in one.views], minlength=24)
    assert len(views) == 24
    assert (abs(views - 8000 / 24) < 5 * np.sqrt(8000 / 24)).all()
    # Four views drawn with replacement from 24 are all different with probability 23·22·21/24³ = 0.7687.
    assert abs(np.mean([len(set(one.views)) == 4 for one in samples]) - 0.7687) < 0.05
    offsets = np.concatenate([one.offsets_V2 for one in samples])
    for axis in range(2):
        counts = np.bincount(offsets[:, axis], minlength=10)
        assert len(counts) == 10  # 0 ... 9
        assert (abs(counts - 800) < 140).all()
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06
    assert abs(np.mean([one.flips_V for one in samples]) - 0.5) < 0.03
    background = np.concatenate([one.background_V3 for one in samples])
    for channel in range(3):
        values, counts = np.unique(background[:, channel], return_counts=True)
        assert values.tolist() == list(range(225, 256))
        assert (abs(counts - 8000 / 31) < 85).all()
    assert np.abs(np.corrcoef(background.T) - np.eye(3)).max() < 0.06


def test_the_views_of_a_sample_are_drawn_independently() -> None:
    flips = np.stack([draw(sample).flips_V for sample in range(2000)])
    assert np.abs(np.corrcoef(flips.T) - np.eye(4)).max() < 0.12
    assert len(np.unique(draw(0).background_V3, axis=0)) == 4


def test_a_view_has_the_same_draws_whatever_the_number_of_views() -> None:
    few, many = draw(3, num_views=2), draw(3, num_views=5)
    assert many.views[:2] == few.views
    np.testing.assert_array_equal(many.offsets_V2[:2], few.offsets_V2)
    np.testing.assert_array_equal(many.flips_V[:2], few.flips_V)
    np.testing.assert_array_equal(many.background_V3[:2], few.background_V3)


def test_seed_epoch_and_sample_each_change_the_draws() -> None:
    draws = [draw(1), draw(2), draw(1, epoch=1), draw(1, seed=1)]
    assert len({one.background_V3.tobytes() for one in draws}) == 4


def test_a_switch_turns_off_one_thing_and_leaves_the_others() -> None:
    usual = draw(5)
    centred = draw(5, random_crop=False)
    assert (centred.offsets_V2 == 5).all()
    assert centred.views == usual.views
    np.testing.assert_array_equal(centred.background_V3, usual.background_V3)
    assert not draw(5, flip_probability=0.0).flips_V.any()
    assert draw(5, flip_probability=1.0).flips_V.all()
    assert (draw(5, background=(7, 7)).background_V3 == 7).all()


def test_the_draws_of_a_batch_are_views_by_samples() -> None:
    views, batch = draw_batch(0, [(0, 1), (4, 2)], num_views=3, num_renderings=24)
    assert batch.offsets_VB2.shape == (3, 2, 2)
    assert batch.flips_VB.shape == (3, 2)
    assert batch.background_VB3.shape == (3, 2, 3)
    alone = draw(2, num_views=3, epoch=4)
    assert views[1] == alone.views
    np.testing.assert_array_equal(batch.offsets_VB2[:, 1], alone.offsets_V2)
    np.testing.assert_array_equal(batch.background_VB3[:, 1], alone.background_V3)
