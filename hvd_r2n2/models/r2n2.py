"""The five networks of 3D-R2N2: encoder of every view, recurrent unit over views, decoder of the last state.

Source: Choy et al., ECCV 2016 (arXiv 1604.00449), and chrischoy/3D-R2N2 (models/res_gru_net.py and its kin).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from hvd_r2n2.models.decoder import ResidualRefineBlock, ResidualUnpoolBlock, StandardRefineBlock, StandardUnpoolBlock
from hvd_r2n2.models.encoder import EncoderOutput, ResidualEncoderBlock, StandardEncoderBlock
from hvd_r2n2.models.layers import same_conv3d
from hvd_r2n2.models.network import IMAGE_CHANNELS, NetworkOptions, ReconstructionNetwork, register_network
from hvd_r2n2.models.recurrent import GRU3d, InputProjection, LSTM3d
from hvd_r2n2.models.stages import NamedTensor, Stage

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

    def __init__(self, name: str, options: NetworkOptions, architecture: Architecture) -> None:
        super().__init__(name, options)
        fast, slope = options.fast, options.leaky_slope
        hidden, num_features = options.scaled(HIDDEN_CHANNELS), options.scaled(NUM_FEATURES)
        self.encoder = _encoder_blocks(options, residual=architecture.residual)
        encoded = options.scaled(ENCODER_CHANNELS[-1]) * ENCODED_SIDE**2
        self.encoder["fc7"] = EncoderOutput(encoded, num_features, slope=slope, fast=fast)
        self.recurrence = nn.ModuleDict(
            {
                "projection": InputProjection(num_features, architecture.unit.num_gates, hidden, fast=fast),
                "unit": architecture.unit(hidden, architecture.kernel_size, fast=fast),
            }
        )
        self.decoder = _decoder_blocks(options, residual=architecture.residual)

    def stages(self) -> tuple[Stage, ...]:
        """Give the blocks of the encoder, fc7, the projection, the unit, and the blocks of the decoder."""
        modules = {
            f"{part}.{name}": module
            for part, blocks in (("encoder", self.encoder), ("recurrence", self.recurrence), ("decoder", self.decoder))
            for name, module in blocks.items()
        }
        stages = []
        tensor = NamedTensor("images", "VBCHW")
        for name, module in modules.items():
            output = _output_of(name)
            stages.append(Stage(name, module, (tensor,), (output,)))
            tensor = output
        return tuple(stages)


def _output_of(stage_name: str) -> NamedTensor:
    """Name what a stage gives: a block's output is called after the block."""
    special = {
        "encoder.fc7": NamedTensor("features", "VBF"),
        "recurrence.projection": NamedTensor("projections", "VBGCDHW"),
        "recurrence.unit": NamedTensor("hidden", "BCDHW"),
        "decoder.block11": NamedTensor("logits", "BCDHW"),
    }
    part, name = stage_name.split(".")
    return special.get(stage_name, NamedTensor(name, "VBCHW" if part == "encoder" else "BCDHW"))


def _encoder_blocks(options: NetworkOptions, *, residual: bool) -> nn.ModuleDict:
    """Make blocks 1 to 6; the first convolution has a 7×7 kernel, the others 3×3."""
    blocks = nn.ModuleDict()
    in_channels = IMAGE_CHANNELS
    slope, fast = options.leaky_slope, options.fast
    for number, (channels, skip) in enumerate(zip(ENCODER_CHANNELS, ENCODER_SKIPS, strict=True), start=1):
        out_channels, kernel_size = options.scaled(channels), 7 if number == 1 else 3
        if residual:
            block: nn.Module = ResidualEncoderBlock(
                in_channels, out_channels, kernel_size, skip=skip, slope=slope, fast=fast
            )
        else:
            block = StandardEncoderBlock(in_channels, out_channels, kernel_size, slope=slope, fast=fast)
        blocks[f"block{number}"] = block
        in_channels = out_channels
    return blocks


def _decoder_blocks(options: NetworkOptions, *, residual: bool) -> nn.ModuleDict:
    """Make blocks 7 to 11, with further unpool blocks above 32³."""
    channels = {f"block{number}": count for number, count in enumerate(UNPOOL_CHANNELS, start=7)}
    side, last = 32, UNPOOL_CHANNELS[-1]
    while side < options.voxel_resolution:
        side, last = 2 * side, last // 2
        channels[f"block9_{side}"] = last
    slope, fast = options.leaky_slope, options.fast
    blocks = nn.ModuleDict()
    base_in = HIDDEN_CHANNELS
    for name, base_out in channels.items():
        in_channels, out_channels = options.scaled(base_in), options.scaled(base_out)
        if residual:
            # By the full-width counts: a narrow network keeps the skips of the wide one.
            skip: Literal["identity", "conv"] = "identity" if base_in == base_out else "conv"
            blocks[name] = ResidualUnpoolBlock(in_channels, out_channels, skip=skip, slope=slope, fast=fast)
        else:
            blocks[name] = StandardUnpoolBlock(in_channels, out_channels, slope=slope, fast=fast)
        base_in = base_out
    refine = ResidualRefineBlock if residual else StandardRefineBlock
    refined = options.scaled(last // 2)
    blocks["block10"] = refine(options.scaled(last), refined, slope=slope, fast=fast)
    blocks["block11"] = same_conv3d(refined, 2, 3)
    return blocks


@register_network("3d-lstm-1")
def _lstm_1(name: str, options: NetworkOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=LSTM3d, kernel_size=1))


@register_network("3d-gru-1")
def _gru_1(name: str, options: NetworkOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=GRU3d, kernel_size=1))


@register_network("3d-lstm-3")
def _lstm_3(name: str, options: NetworkOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=LSTM3d, kernel_size=3))


@register_network("3d-gru-3")
def _gru_3(name: str, options: NetworkOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=False, unit=GRU3d, kernel_size=3))


@register_network("res3d-gru-3")
def _res_gru_3(name: str, options: NetworkOptions) -> ReconstructionNetwork:
    return RecurrentReconstruction(name, options, Architecture(residual=True, unit=GRU3d, kernel_size=3))
