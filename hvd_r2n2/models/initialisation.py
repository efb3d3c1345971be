"""Initial weights: a normal distribution a layer, from a generator of the network's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from hvd_r2n2.models.layers import GateConv3d
from hvd_r2n2.models.recurrent import InputProjection

INITIAL_BIAS = 0.1

StandardDeviation = Callable[[int, int], float]  # of a layer's weights, from its fan-in and fan-out


def released_code_std(fan_in: int, fan_out: int) -> float:
    """Give √(2/n) with n the mean of fan-in and fan-out (chrischoy/3D-R2N2, lib/layers.py, class Weight)."""
    return math.sqrt(2 / ((fan_in + fan_out) / 2))


def msra_std(fan_in: int, fan_out: int) -> float:
    """Give √(2/fan-in) (He et al. 2015, equation 10); the slope of the leaky ReLU is left out, as in Caffe."""
    return math.sqrt(2 / fan_in)


def fans(module: nn.Module) -> tuple[int, int] | None:
    """Give fan-in and fan-out of a layer, of one gate where it holds several; None where it has no weights."""
    num_gates = module.num_gates if isinstance(module, GateConv3d | InputProjection) else 1
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        kernel_cells = math.prod(module.kernel_size)
        return kernel_cells * module.in_channels, kernel_cells * module.out_channels // num_gates
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features // num_gates
    return None


@torch.no_grad()
def initialise(network: nn.Module, standard_deviation: StandardDeviation, seed: int) -> None:
    """Draw all weights anew, layer by layer in the order of the modules; biases become 0.1.

    The network is on the CPU in float32. The draw depends on nothing but the seed and the layers' sizes.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    num_done = 0
    for module in network.modules():
        layer_fans = fans(module)
        if layer_fans is None:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.fill_(INITIAL_BIAS)
            else:
                parameter.normal_(0, standard_deviation(*layer_fans), generator=generator)
            num_done += 1
    assert num_done == len(list(network.parameters())), "a parameter outside a known layer was not drawn"
