"""The loss against hand-computed values and PyTorch's own softmax cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from hvd_r2n2.models import voxel_cross_entropy


def test_equal_logits_cost_log_two() -> None:
    logits = torch.zeros(2, 2, 3, 3, 3)
    assert voxel_cross_entropy(logits, torch.ones(2, 3, 3, 3)).item() == pytest.approx(math.log(2))


def test_one_voxel_by_hand() -> None:
    logits = torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(1, 2, 1, 1, 1)
    occupied = voxel_cross_entropy(logits, torch.ones(1, 1, 1, 1, dtype=torch.uint8))
    empty = voxel_cross_entropy(logits, torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    assert occupied.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(0.5) + math.exp(2))), rel=1e-14)
    assert empty.item() == pytest.approx(-math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(2))), rel=1e-14)


def test_value_and_gradient_are_those_of_softmax_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (10 * torch.randn(3, 2, 4, 5, 6, generator=generator)).double().requires_grad_()
    occupancy = torch.randint(0, 2, (3, 4, 5, 6), generator=generator, dtype=torch.uint8)
    (gradient,) = torch.autograd.grad(voxel_cross_entropy(logits, occupancy), logits)
    expected = F.cross_entropy(logits, occupancy.long())
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(voxel_cross_entropy(logits, occupancy), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-17)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([1e5, -1e5]).reshape(1, 2, 1, 1, 1)
    assert voxel_cross_entropy(logits, torch.ones(1, 1, 1, 1)).item() == pytest.approx(2e5)


def test_computed_in_float32_at_least_even_under_autocast() -> None:
    logits = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    occupancy = torch.ones(2, 4, 4, 4, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = voxel_cross_entropy(logits, occupancy)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), occupancy.long()), rtol=1e-6, atol=0)
    assert voxel_cross_entropy(logits.double(), occupancy).dtype == torch.float64


@pytest.mark.parametrize(
    ("logits_shape", "occupancy_shape"),
    [((1, 2, 4, 4, 4), (1, 2, 4, 4, 4)), ((1, 1, 4, 4, 4), (1, 4, 4, 4)), ((2, 2, 4, 4, 4), (1, 4, 4, 4))],
)
def test_shapes_that_do_not_fit_are_named(logits_shape: tuple[int, ...], occupancy_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 2, D, D, D\) and \(B, D, D, D\)"):
        voxel_cross_entropy(torch.zeros(logits_shape), torch.zeros(occupancy_shape))
