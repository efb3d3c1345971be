"""Initial weights: a normal distribution a layer, from a generator of the network's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

StandardDeviation = Callable[[int, int], float]  # of a layer's weights, from its fan-in and fan-out


@dataclass(frozen=True)
class InitialValues:
    """Hold what a layer starts with: weights normal around 0, biases all alike."""

    weight_std: float
    bias: float


def released_code_std(fan_in: int, fan_out: int) -> float:
    """Give √(2/n) with n the mean of fan-in and fan-out (chrischoy/3D-R2N2, lib/layers.py, class Weight)."""
    return math.sqrt(2 / ((fan_in + fan_out) / 2))


def msra_std(fan_in: int, fan_out: int) -> float:
    """Give √(2/fan-in) (He et al. 2015, equation 10); the slope of the leaky ReLU is left out, as in Caffe."""
    return math.sqrt(2 / fan_in)


def fans(module: nn.Module) -> tuple[int, int] | None:
    """Give fan-in and fan-out of a layer, of one gate where it holds several; None where it has no weights.

    Where a layer reads in groups, an output has the inputs of its own group only, and an input the outputs.
    """
    if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        return None
    num_gates = getattr(module, "row_axes", {}).get("G", 1)
    num_rows, num_inputs, *kernel = module.weight.shape
    kernel_cells = math.prod(kernel)
    return kernel_cells * num_inputs, kernel_cells * num_rows // num_gates // getattr(module, "groups", 1)


@torch.no_grad()
def initialise(network: nn.Module, initial_values: Callable[[str, int, int], InitialValues], seed: int) -> None:
    """Draw all weights anew, layer by layer in the order of the modules, and set the biases.

    `initial_values` takes a layer's name in the network, fan-in and fan-out. The network is on the CPU in float32.
    The draw depends on nothing but the seed and the layers' sizes.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    num_done = 0
    for layer, module in network.named_modules():
        layer_fans = fans(module)
        if layer_fans is None:
            continue
        values = initial_values(layer, *layer_fans)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.fill_(values.bias)
            else:
                parameter.normal_(0, values.weight_std, generator=generator)
            num_done += 1
    assert num_done == len(list(network.parameters())), "a parameter outside a known layer was not drawn"
