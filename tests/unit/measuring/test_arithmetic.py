"""Counted arithmetic, against counts by hand and published ones. M is a multiplication with its addition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hvd_r2n2.config import ModelConfig
from hvd_r2n2.measuring.arithmetic import _of_gradients, count_arithmetic

CUBE = 27  # cells of a 3x3x3 kernel
SIDES = (127, 64, 33, 17, 9, 5)  # of what the encoder's blocks read
CHANNELS = (3, 96, 128, 256, 256, 256, 256)
WITH_SKIP_CONVOLUTION = (2, 3, 5)  # blocks
GATES = 3 * CUBE * 128 * 128 * 4**3
FIRST_CONVOLUTION = 49 * 3 * 96 * 127**2


def products_of_a_view() -> int:
    """Res3D-GRU-3 as the paper has it: encoder, projection and one step of the recurrent unit."""
    total = 0
    for block, side in enumerate(SIDES, start=1):
        inputs, outputs = CHANNELS[block - 1 : block + 1]
        total += (49 if block == 1 else 9) * inputs * outputs * side**2 + 9 * outputs * outputs * side**2
        total += inputs * outputs * side**2 if block in WITH_SKIP_CONVOLUTION else 0
    return total + 256 * 9 * 1024 + 1024 * 3 * 128 * 4**3 + GATES


def products_of_the_decoder() -> int:
    """Each convolution of an unpooled grid counts by the cells that are not zeros: those before unpooling."""
    block_7 = CUBE * 128 * 128 * (4**3 + 8**3)
    block_8 = CUBE * 128 * 128 * (8**3 + 16**3)
    block_9 = CUBE * 128 * 64 * 16**3 + CUBE * 64 * 64 * 32**3 + 128 * 64 * 16**3
    block_10 = CUBE * (64 * 32 + 2 * 32 * 32) * 32**3
    return block_7 + block_8 + block_9 + block_10 + CUBE * 32 * 2 * 32**3


def test_hand_count_is_the_published_one() -> None:
    assert products_of_the_decoder() / 1e9 == pytest.approx(10.54, abs=0.005)
    assert products_of_a_view() / 1e9 == pytest.approx(4.26, abs=0.005)


@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize(("num_samples", "num_views"), [(1, 1), (2, 3)])
def test_residual_network(num_samples: int, num_views: int, form: str) -> None:
    found = count_arithmetic(ModelConfig(width=1.0, form=form), num_samples, num_views)
    forward = num_samples * (products_of_the_decoder() + num_views * products_of_a_view())
    # Nobody needs the gradient of the images, nor that of the state before the first view, which two gates read.
    unneeded = num_samples * (num_views * FIRST_CONVOLUTION + GATES * 2 // 3)
    assert found.forward == 2 * forward
    assert found.backward == 2 * (2 * forward - unneeded)
    assert found.step == found.forward + found.backward


def test_network_with_groups() -> None:
    found = count_arithmetic(ModelConfig(name="alexnet", width=1.0, num_classes=1000), 1, 1)
    assert found.forward == 2 * 724_406_816  # as published of the network with two groups
    assert found.backward == 2 * (2 * 724_406_816 - 363 * 96 * 55**2)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_convolutions_of_grids(transposed: bool) -> None:
    kind = nn.ConvTranspose3d if transposed else nn.Conv3d
    layer = kind(6, 4, 3, stride=2, padding=1)
    inputs = torch.zeros(5, 6, 4, 6, 8, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _of_gradients}) as counter:
        layer(inputs).sum().backward()
    # A stride of 2 leaves an eighth of the cells, of the inputs or of the outputs.
    products = 5 * 6 * 4 * 27 * (4 * 6 * 8 if transposed else 2 * 3 * 4)
    assert counter.get_total_flops() == 2 * 3 * products


def test_only_the_gradients_that_are_wanted_count() -> None:
    shapes = ((2, 8, 4, 4), (2, 6, 4, 4), (8, 3, 3, 3), None, (1, 1), (1, 1), (1, 1), False, (0, 0), 2)
    one = 2 * 2 * 8 * 3 * 9 * 16
    assert _of_gradients(*shapes, (True, True, True)) == 2 * one
    assert _of_gradients(*shapes, (False, True, True)) == one
    assert _of_gradients(*shapes, (False, False, True)) == 0
