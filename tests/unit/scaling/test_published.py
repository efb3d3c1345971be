"""The model against published figures, and the networks that they are about."""

import math

import pytest

from hvd_r2n2.scaling.published import TOLERANCE, check
from hvd_r2n2.scaling.published_networks import inception_v3, layers_of, resnet_101, vgg_16
from hvd_r2n2.scaling.stragglers import expected_maximum, straggler_s


def test_efficiencies_over_rdma_are_near_the_published_ones() -> None:
    found = [one for one in check() if one.between == "roce-25g"]
    assert {one.gpus for one in found} == {16, 128, 512}
    for one in found:
        assert abs(one.error) < TOLERANCE, one
        assert one.lowest < one.predicted < one.highest


def test_vgg_loses_most_for_it_has_most_to_send() -> None:
    at_512 = {one.network: one.predicted for one in check() if one.gpus == 512}
    assert at_512["VGG-16"] < at_512["ResNet-101"] - 0.1


def test_networks_have_the_published_sizes() -> None:
    # torchvision's counts: VGG-16 138,357,544; ResNet-101 44,549,160; Inception V3 without auxiliary 23,834,568.
    counts = [sum(sum(piece.parameters) for piece in pieces()) for pieces in (vgg_16, resnet_101, inception_v3)]
    assert counts == [138_357_544, 44_549_160, 23_834_568]
    # "19.6 billion FLOPs" is VGG-19's, 15.3 its table's for VGG-16 without ReLUs; ResNet-101 has 7.6 (He et al.).
    assert sum(piece.products for piece in vgg_16()) / 1e9 == pytest.approx(15.47, abs=0.01)
    assert sum(piece.products for piece in resnet_101()) / 1e9 == pytest.approx(7.6, abs=0.05)


def test_layers_share_the_time_of_the_step() -> None:
    layers = layers_of(vgg_16(), 0.9)
    assert sum(layer.forward_s for layer in layers) == pytest.approx(0.3)
    assert sum(layer.backward_s for layer in layers) == pytest.approx(0.6)


def test_expected_maximum_of_normal_numbers() -> None:
    assert expected_maximum(1) == pytest.approx(0, abs=1e-6)
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-4)
    assert expected_maximum(3) == pytest.approx(3 / (2 * math.sqrt(math.pi)), abs=1e-4)
    assert straggler_s(2.0, 0.1, 2) == pytest.approx(0.2 / math.sqrt(math.pi), abs=1e-4)
    assert straggler_s(2.0, 0.1, 1) == 0
