import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from hvd_r2n2.training.metrics import (
    average_precision,
    f_score,
    intersection_and_union,
    intersection_over_union,
    occupancy_probability,
    sample_cross_entropy,
    surface_points,
)


def _grid(side: int, *cells: tuple[int, int, int]) -> np.ndarray:
    grid = np.zeros((side,) * 3, dtype=bool)
    for cell in cells:
        grid[cell] = True
    return grid


def test_iou_counts_match_a_hand_count() -> None:
    probability = torch.tensor([0.9, 0.6, 0.3, 0.1, 0.4, 0.0, 0.0, 0.0]).reshape(1, 2, 2, 2)
    truth = torch.tensor([1, 0, 1, 1, 0, 0, 0, 0], dtype=torch.uint8).reshape(1, 2, 2, 2)
    intersection, union = intersection_and_union(probability, truth, (0.2, 0.4, 0.5))
    # above 0.2: cells 0 1 2 4; above 0.4: 0 1 (0.4 itself is not above 0.4); above 0.5: 0 1
    assert intersection.tolist() == [[2, 1, 1]]
    assert union.tolist() == [[5, 4, 4]]
    assert intersection_over_union(2, 5) == 0.4


def test_nothing_predicted_where_nothing_is_counts_as_perfect() -> None:
    empty = torch.zeros(2, 2, 2, 2)
    truth = torch.stack((torch.zeros(2, 2, 2), torch.ones(2, 2, 2)))
    intersection, union = intersection_and_union(empty, truth, (0.5,))
    ious = [intersection_over_union(i, u) for i, u in zip(intersection[:, 0], union[:, 0], strict=True)]
    assert ious == [1.0, 0.0]


def test_samples_of_a_batch_are_counted_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand((5, 4, 4, 4), generator=generator)
    truth = (torch.rand((5, 4, 4, 4), generator=generator) < 0.4).to(torch.uint8)
    intersection, union = intersection_and_union(probability, truth, (0.3, 0.7))
    for sample in range(5):
        for column, threshold in enumerate((0.3, 0.7)):
            cut, solid = probability[sample].numpy() > np.float32(threshold), truth[sample].numpy() > 0
            assert intersection[sample, column] == np.logical_and(cut, solid).sum()
            assert union[sample, column] == np.logical_or(cut, solid).sum()


def test_probability_is_the_second_softmax_channel() -> None:
    logits = torch.zeros(1, 2, 1, 1, 1)
    logits[0, 1] = math.log(3)
    assert occupancy_probability(logits).item() == pytest.approx(0.75)
    assert occupancy_probability(logits.bfloat16()).dtype == torch.float32
    assert occupancy_probability(logits.double()).dtype == torch.float64


def test_cross_entropy_is_the_mean_over_voxels_of_each_sample() -> None:
    logits = torch.zeros(2, 2, 1, 1, 2, dtype=torch.float64)
    logits[1, 1, 0, 0, 0] = math.log(3)  # p = 3/4 there, 1/2 elsewhere
    truth = torch.tensor([[[[1, 0]]], [[[1, 0]]]])
    expected = [math.log(2), (math.log(4 / 3) + math.log(2)) / 2]
    assert sample_cross_entropy(logits, truth).tolist() == pytest.approx(expected, rel=1e-12)


def test_average_precision_matches_a_hand_count() -> None:
    probability = torch.tensor([0.9, 0.8, 0.7, 0.6]).reshape(1, 1, 2, 2)
    truth = torch.tensor([1, 0, 1, 0]).reshape(1, 1, 2, 2)
    # recall 1/2 at precision 1, then recall 1 at precision 2/3
    assert average_precision(probability, truth).tolist() == pytest.approx([0.5 + 0.5 * 2 / 3], rel=1e-12)


@pytest.mark.parametrize("digits", [None, 2, 1, 0], ids=["no ties", "some ties", "mostly ties", "two values"])
def test_average_precision_equals_scikit_learn(digits: int | None) -> None:
    random = np.random.default_rng(5)
    probability = random.random((6, 8, 8, 8), dtype=np.float32)
    truth = random.random((6, 8, 8, 8)) < probability**2
    if digits is not None:
        probability = np.round(probability, digits)
    expected = [average_precision_score(t.ravel(), p.ravel()) for t, p in zip(truth, probability, strict=True)]
    found = average_precision(torch.from_numpy(probability), torch.from_numpy(truth))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_constant_predictions_is_the_share_of_occupied_voxels() -> None:
    truth = torch.zeros(3, 2, 2, 2)
    truth[0] = 1
    truth[1, 0, 0, 0] = 1
    assert average_precision(torch.full((3, 2, 2, 2), 0.5), truth).tolist() == [1.0, 0.125, 0.0]


def test_surface_points_lie_on_the_octahedron_that_marching_cubes_puts_around_one_cell() -> None:
    points = surface_points(_grid(4, (1, 2, 3)), 500)
    centre = np.array((1.5, 2.5, 3.5)) / 4
    # Level 0.5 between a 1 and its 0 neighbours: corners half a cell away along each axis.
    assert np.abs(points - centre).sum(axis=1) == pytest.approx(np.full(500, 0.5 / 4), abs=1e-6)


def test_surface_points_cover_the_surface_evenly() -> None:
    points = surface_points(np.ones((8, 8, 8), dtype=bool), 20_000)
    on_low_x, on_high_y = np.isclose(points[:, 0], 0, atol=1e-6), np.isclose(points[:, 1], 1, atol=1e-6)
    # The six faces keep most of the area: 7/8 of each side is flat, the bevelled rim takes the rest.
    flat, rim = (7 / 8) ** 2, 12 * (7 / 8) * math.sqrt(2) * (1 / 16)
    corners = 8 * math.sqrt(3) / 2 * (1 / 8) ** 2 / 2 / 2
    share = flat / (6 * flat + rim + corners)
    assert on_low_x.mean() == pytest.approx(share, abs=0.01)
    assert on_high_y.mean() == pytest.approx(share, abs=0.01)


def test_f_score_of_the_same_grid_is_one_and_of_distant_ones_zero() -> None:
    grid = _grid(16, (2, 2, 2), (2, 3, 2))
    assert f_score(grid, grid) == 1.0
    assert f_score(grid, _grid(16, (12, 12, 12))) == 0.0


def test_f_score_of_empty_grids_is_one_only_if_both_are_empty() -> None:
    empty, full = np.zeros((8, 8, 8), dtype=bool), np.ones((8, 8, 8), dtype=bool)
    assert (f_score(empty, empty), f_score(empty, full), f_score(full, empty)) == (1.0, 0.0, 0.0)


def test_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    truth = _grid(32, (4, 4, 4))
    predicted = _grid(32, (4, 4, 4), (20, 20, 20), (26, 10, 5))  # three equal surfaces, one of them true
    # All points of the truth are matched; a third of the predicted ones are, give or take the drawing of points.
    precision, recall = 1 / 3, 1.0
    expected = 2 * precision * recall / (precision + recall)
    assert f_score(predicted, truth) == pytest.approx(expected, abs=0.03)
    assert f_score(truth, predicted) == pytest.approx(expected, abs=0.03)


def test_f_score_tells_a_shift_smaller_than_its_distance_from_a_larger_one() -> None:
    grid = np.zeros((200,) * 3, dtype=bool)
    grid[100, 100:104, 100:104] = True
    near, far = np.roll(grid, 1, axis=0), np.roll(grid, 4, axis=0)  # 0.005 and 0.02 of the side
    assert f_score(near, grid) > 0.99
    assert f_score(far, grid) < 0.2
