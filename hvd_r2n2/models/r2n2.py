"""The five networks of 3D-R2N2: encoder of every view, recurrent unit over views, decoder of the last state.

Source: Choy et al., ECCV 2016 (arXiv 1604.00449), and chrischoy/3D-R2N2 (models/res_gru_net.py and its kin).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.models.decoder import (
    Conv,
    ResidualRefineBlock,
    ResidualUnpoolBlock,
    StandardRefineBlock,
    StandardUnpoolBlock,
)
from hvd_r2n2.models.encoder import FEATURES, IMAGES, EncoderOutput, ResidualEncoderBlock, StandardEncoderBlock
from hvd_r2n2.models.layers import Block, SameConv3d, reach
from hvd_r2n2.models.losses import VOXEL_LOGITS
from hvd_r2n2.models.network import IMAGE_CHANNELS, ReconstructionNetwork, register_network
from hvd_r2n2.models.options import ReconstructionOptions
from hvd_r2n2.models.recurrent import PROJECTIONS, GRU3d, InputProjection, LSTM3d

ENCODER_CHANNELS = (96, 128, 256, 256, 256, 256)  # of blocks 1 to 6
ENCODER_SKIPS: tuple[Literal["none", "identity", "conv"], ...] = ("none", "conv", "conv", "none", "conv", "identity")
ENCODED_SIDE = 3  # of the feature map that fc7 reads
NUM_FEATURES = 1024  # out of fc7
HIDDEN_CHANNELS = 128
UNPOOL_CHANNELS = (128, 128, 64)  # of blocks 7 to 9, whose sides are 8, 16 and 32


@dataclass(frozen=True)
class Architecture:
    """Hold what tells the five networks apart."""

    residual: bool
    unit: type[GRU3d] | type[LSTM3d]
    kernel_size: int


class RecurrentReconstruction(ReconstructionNetwork):
    """One of the five networks.

    Above 32³ (our extension) every doubling adds an unpool block after block 9, called ``block9_64`` and
    ``block9_128`` after its side. As in the paper's last blocks each has half the channels of the one
    before, and block 10 half of the last again: 32, then 16 at 64³; 32, 16, then 8 at 128³, so a doubling
    costs twice the arithmetic and four times the memory of the one before, not eight times each.
    """

    def __init__(self, name: str, options: ReconstructionOptions, architecture: Architecture) -> None:
        super().__init__(name, options)
        self.encoder = _encoder(options, residual=architecture.residual)
        self.recurrence = nn.ModuleDict(
            {
                "projection": _projection(options),
                "unit": architecture.unit(
                    "recurrence.unit", options.scaled(HIDDEN_CHANNELS), architecture.kernel_size, options
                ),
            }
        )
        self.decoder = _decoder(options, residual=architecture.residual)

    def stages(self) -> tuple[Stage, ...]:
        """Give the stages of encoder, recurrence and decoder: about one a convolution, see the blocks."""
        stages: list[Stage] = []
        tensor = IMAGES
        for part, layers in (("encoder", self.encoder), ("recurrence", self.recurrence), ("decoder", self.decoder)):
            for key, layer in layers.items():
                if isinstance(layer, Block):
                    stages += layer.stages(tensor)
                else:
                    stages.append(_single_stage(f"{part}.{key}", layer, tensor))
                tensor = stages[-1].outputs[0]
        return tuple(stages)


def _single_stage(name: str, layer: nn.Module, inputs: NamedTensor) -> Stage:
    """Give the stage of a layer that is not in a block."""
    if isinstance(layer, EncoderOutput):
        return Stage(name, layer, (Read(inputs, reach(layer)),), (FEATURES,))
    if isinstance(layer, InputProjection):
        return Stage(name, layer, (Read(inputs, reach(layer)),), (PROJECTIONS,))
    assert isinstance(layer, SameConv3d)
    return Stage(name, Conv(layer), (Read(inputs, reach(layer), layer.halo),), (VOXEL_LOGITS,))


def _encoder(options: ReconstructionOptions, *, residual: bool) -> nn.ModuleDict:
    """Make blocks 1 to 6, whose first convolution has a 7×7 kernel and the others 3×3, and fc7."""
    encoder = nn.ModuleDict()
    in_channels = IMAGE_CHANNELS
    for number, (base_channels, skip) in enumerate(zip(ENCODER_CHANNELS, ENCODER_SKIPS, strict=True), start=1):
        channels, kernel_size, first = options.scaled(base_channels), 7 if number == 1 else 3, number == 1
        name = f"encoder.block{number}"
        if residual:
            block: nn.Module = ResidualEncoderBlock(
                name, in_channels, channels, kernel_size, skip=skip, first=first, options=options
            )
        else:
            block = StandardEncoderBlock(name, in_channels, channels, kernel_size, first=first, options=options)
        encoder[f"block{number}"] = block
        in_channels = channels
    num_features = options.scaled(NUM_FEATURES)
    groups = options.groups("encoder.fc7", in_channels, num_features)
    encoder["fc7"] = EncoderOutput(in_channels * ENCODED_SIDE**2, num_features, groups, options)
    return encoder


def _projection(options: ReconstructionOptions) -> InputProjection:
    num_features, channels = options.scaled(NUM_FEATURES), options.scaled(HIDDEN_CHANNELS)
    groups = options.groups("recurrence.projection", num_features, channels)
    return InputProjection(num_features, channels, groups, options)


def _decoder(options: ReconstructionOptions, *, residual: bool) -> nn.ModuleDict:
    """Make blocks 7 to 11, with further unpool blocks above 32³."""
    channels = {f"block{number}": count for number, count in enumerate(UNPOOL_CHANNELS, start=7)}
    side, last = 32, UNPOOL_CHANNELS[-1]
    while side < options.voxel_resolution:
        side, last = 2 * side, last // 2
        channels[f"block9_{side}"] = last
    decoder = nn.ModuleDict()
    base_in = HIDDEN_CHANNELS
    for key, base_out in channels.items():
        name, in_channels, out_channels = f"decoder.{key}", options.scaled(base_in), options.scaled(base_out)
        if residual:
            # By the full-width counts: a narrow network keeps the skips of the wide one.
            skip: Literal["identity", "conv"] = "identity" if base_in == base_out else "conv"
            decoder[key] = ResidualUnpoolBlock(name, in_channels, out_channels, skip=skip, options=options)
        else:
            decoder[key] = StandardUnpoolBlock(name, in_channels, out_channels, options)
        base_in = base_out
    refine = ResidualRefineBlock if residual else StandardRefineBlock
    refined = options.scaled(last // 2)
    decoder["block10"] = refine("decoder.block10", options.scaled(last), refined, options)
    decoder["block11"] = SameConv3d(refined, 2, 3, options.groups("decoder.block11", refined, 2))
    return decoder


@register_network("3d-lstm-1", ReconstructionOptions)
def _lstm_1(name: str, options: ReconstructionOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=LSTM3d, kernel_size=1))


@register_network("3d-gru-1", ReconstructionOptions)
def _gru_1(name: str, options: ReconstructionOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=GRU3d, kernel_size=1))


@register_network("3d-lstm-3", ReconstructionOptions)
def _lstm_3(name: str, options: ReconstructionOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=LSTM3d, kernel_size=3))


@register_network("3d-gru-3", ReconstructionOptions)
def _gru_3(name: str, options: ReconstructionOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=GRU3d, kernel_size=3))


@register_network("res3d-gru-3", ReconstructionOptions)
def _res_gru_3(name: str, options: ReconstructionOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=True, unit=GRU3d, kernel_size=3))
