"""How much arithmetic a network needs: the multiplications and additions of its products, counted from their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.config import Config, ModelConfig
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.setup import build_model

_COUNTED_FORM = "unpool"
"""The form that leaves out the products with the zeros of unpooled grids, and changes nothing else."""


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of a batch: two for each product of convolutions and linear layers, no others."""

    forward: int
    backward: int
    """Gradients of all weights, and of all layers' inputs but the images."""

    @property
    def step(self) -> int:
        """Give those of a training step."""
        return self.forward + self.backward


def with_counted_form(network: ModelConfig) -> ModelConfig:
    """Return the settings whose arithmetic counts for a network: fresh weights, whatever its form is."""
    network = replace(network, weights=None)
    return network if network.classifies else replace(network, form=_COUNTED_FORM)


def count_arithmetic(network: ModelConfig, num_samples: int, num_views: int) -> Arithmetic:
    """Count what remains of a network after the exact re-expressions, whatever its form is; nothing is computed.

    Products with the zeros around an image or grid are counted, as is usual; those with the zeros of an unpooled grid
    are not.
    """
    config, nowhere = Config(model=with_counted_form(network)), torch.device("meta")
    model = build_model(config.model, config.train.seed)
    inputs = random_inputs(config, model, num_samples, num_views, nowhere)
    model = model.to(nowhere)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _of_gradients}) as counter:
        logits = run_stages(model.stages(), inputs, {"logits"})["logits"]
        forward = counter.get_total_flops()
        logits.sum().backward()  # type: ignore[no-untyped-call]
        return Arithmetic(forward, counter.get_total_flops() - forward)


def _of_gradients(
    gradient_shape: Sequence[int],
    inputs_shape: Sequence[int],
    weight_shape: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """Count a convolution's gradients: of inputs and of weight, as far as wanted, each as many as the convolution.

    torch's own formula takes groups for one.
    """
    positions = (inputs_shape if transposed else gradient_shape)[2:]
    return 2 * sum(wanted[:2]) * inputs_shape[0] * prod(positions) * prod(weight_shape)
