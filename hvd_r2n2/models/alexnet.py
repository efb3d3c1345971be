"""AlexNet, the two-tower network of 2012 that names the class of an image.

Source: Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012. Its
images have 227 pixels a side: the 224 of the paper do not fit its own sizes.
Shapes: B batch, C channels, H W rows and columns, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.models.initialisation import InitialValues
from hvd_r2n2.models.layers import Conv2d, GroupedLinear, channels_last, reach
from hvd_r2n2.models.losses import CLASS_LOGITS
from hvd_r2n2.models.network import IMAGE_CHANNELS, ClassificationNetwork, register_network
from hvd_r2n2.models.options import ClassificationOptions
from hvd_r2n2.models.pooling import max_pool2d
from hvd_r2n2.models.response_norm import REACH, local_response_norm

IMAGES = NamedTensor("images", "BCHW")
CONV5_SIDE = 6  # of the feature map that fc6 reads
NUM_FEATURES = 4096  # of fc6 and fc7
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


@dataclass(frozen=True)
class ConvSettings:
    """Hold the sizes of one convolution, and what follows it: a pool in its stage, or a stage of its own."""

    channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    pool: bool = False
    norm: str | None = None
    """Name of the stage after it that normalises and pools."""


CONVOLUTIONS = {
    "conv1": ConvSettings(96, 11, stride=4, norm="norm1"),
    "conv2": ConvSettings(256, 5, padding=2, norm="norm2"),
    "conv3": ConvSettings(384, 3, padding=1),
    "conv4": ConvSettings(384, 3, padding=1),
    "conv5": ConvSettings(256, 3, padding=1, pool=True),
}


@dataclass(frozen=True)
class AlexNetOptions(ClassificationOptions):
    """Hold what makes an AlexNet: two towers as published unless `cross` says otherwise."""

    cross: tuple[str, ...] | None = ("conv3", "fc6", "fc7", "fc8")

    @property
    def dropout_masks(self) -> dict[str, int]:
        """Give the names of the dropout masks and the number of features of each."""
        return dict.fromkeys(("dropout6", "dropout7"), self.scaled(NUM_FEATURES))


class ConvStage(nn.Module):
    """Convolution, ReLU, and a pool where `pool` says so."""

    def __init__(self, conv: Conv2d, *, pool: bool) -> None:
        super().__init__()
        self.conv = conv
        self.pool = pool

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """Give the activated feature maps BCHW."""
        outputs: Tensor = self.conv(channels_last(inputs_BCHW))
        # The ReLU is increasing: after the pool it has fewer cells to do.
        return F.relu_(overlapping_pool(outputs) if self.pool else outputs)


class NormStage(nn.Module):
    """Local response normalisation within each group of channels, then the pool."""

    def __init__(self, num_channels: int, groups: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        """Channels of the whole network at this place."""
        self.groups = groups
        self.channel_range: tuple[int, int] | None = None
        """Which of the channels given are wanted, the others being their neighbours. None: all."""

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """Give the pooled maps BCHW, of the wanted channels."""
        inputs_BCHW = channels_last(inputs_BCHW)
        if self.channel_range is None:
            return overlapping_pool(local_response_norm(inputs_BCHW, self.groups))
        assert self.groups == 1
        start, end = self.channel_range
        first = max(0, start - REACH)
        outputs_BCHW = local_response_norm(inputs_BCHW[:, first : end + REACH])
        return overlapping_pool(outputs_BCHW[:, start - first : end - first])


class DenseStage(nn.Module):
    """Linear layer of all features or of flattened feature maps, ReLU, dropout by a mask that is an input."""

    def __init__(self, linear: GroupedLinear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: Tensor, mask_BF: Tensor | None = None) -> Tensor:
        """Give the features BF; the mask holds 0 and 2, nothing is dropped without it."""
        features_BF = F.relu_(self.linear(inputs.flatten(1)))
        return features_BF if mask_BF is None else features_BF * mask_BF.to(features_BF.dtype)


def overlapping_pool(inputs_BCHW: Tensor) -> Tensor:
    """Pool 3×3 with stride 2: sides go 55 → 27 → 13 → 6."""
    return max_pool2d(inputs_BCHW, kernel_size=3, stride=2)


class AlexNet(ClassificationNetwork):
    """AlexNet; with `cross` None its ungrouped twin of one tower."""

    options: AlexNetOptions
    image_side = 227

    def __init__(self, name: str, options: AlexNetOptions) -> None:
        super().__init__(name, options)
        in_channels = IMAGE_CHANNELS
        for layer, settings in CONVOLUTIONS.items():
            channels = options.scaled(settings.channels)
            groups = 1 if layer == "conv1" else options.groups(layer, in_channels, channels)
            conv = Conv2d(in_channels, channels, settings.kernel_size, settings.stride, settings.padding, groups=groups)
            self.add_module(layer, conv)
            in_channels = channels
        num_features = options.scaled(NUM_FEATURES)
        cells = CONV5_SIDE**2
        self.fc6 = GroupedLinear(in_channels * cells, num_features, options.groups("fc6", in_channels, num_features))
        self.fc7 = GroupedLinear(num_features, num_features, options.groups("fc7", num_features))
        self.fc8 = GroupedLinear(
            num_features, options.num_classes, options.groups("fc8", num_features, options.num_classes)
        )

    def stages(self) -> tuple[Stage, ...]:
        """Give a stage a layer, and one for each normalisation with its pool.

        The first reads ``images`` (BCHW), those of fc6 and fc7 also the masks ``dropout6`` and ``dropout7`` (BF, 0 or
        2), the last gives ``logits`` (BF).
        """
        stages: list[Stage] = []
        tensor = IMAGES
        for layer, settings in CONVOLUTIONS.items():
            conv = self.get_submodule(layer)
            assert isinstance(conv, Conv2d)
            module = ConvStage(conv, pool=settings.pool)
            stages.append(Stage(layer, module, (Read(tensor, reach(conv)),), (NamedTensor(layer, "BCHW"),)))
            tensor = stages[-1].outputs[0]
            if settings.norm is not None:
                stages.append(self._norm_stage(settings.norm, tensor, conv.out_channels))
                tensor = stages[-1].outputs[0]
        for layer, linear, mask in (("fc6", self.fc6, "dropout6"), ("fc7", self.fc7, "dropout7")):
            reads = (Read(tensor, reach(linear)), Read(NamedTensor(mask, "BF"), "own"))
            tensor = NamedTensor(layer, "BF")
            stages.append(Stage(layer, DenseStage(linear), reads, (tensor,)))
        stages.append(Stage("fc8", self.fc8, (Read(tensor, reach(self.fc8)),), (CLASS_LOGITS,)))
        return tuple(stages)

    def _norm_stage(self, name: str, inputs: NamedTensor, channels: int) -> Stage:
        module = NormStage(channels, self.options.groups(name, channels))
        return Stage(name, module, (Read(inputs, reach(module)),), (NamedTensor(name, "BCHW"),))

    def initial_values(self, layer: str, fan_in: int, fan_out: int) -> InitialValues:
        """Give the paper's deviation of 0.01, and its biases: 1 in some layers, so that their ReLUs start active.

        Our extension: a layer of a narrow network sums fewer products, and its weights are larger by the root of that.
        Else each layer would let less of the image through: at a quarter of the width, 1 % of what reaches the logits.
        """
        narrowness = 1.0 if layer == "conv1" else self.options.width
        return InitialValues(0.01 / math.sqrt(narrowness), 1.0 if layer in BIASED else 0.0)


@register_network("alexnet", AlexNetOptions)
def _alexnet(name: str, options: AlexNetOptions) -> ClassificationNetwork:
    return AlexNet(name, options)
