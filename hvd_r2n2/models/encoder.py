"""The encoder: six blocks and fc7, weights shared over views. Source: arXiv 1604.00449.

Shapes: V views, B batch, C channels, H W rows and columns, F features. All convolutions have stride 1 and
keep the sides; every block ends in the pool of `layers.max_pool`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.models.layers import (
    Block,
    Conv2d,
    GroupedLinear,
    activate_,
    convolve,
    for_each_view,
    max_pool,
    reach,
    same_conv2d,
)
from hvd_r2n2.models.options import ReconstructionOptions

IMAGES = NamedTensor("images", "VBCHW")
FEATURES = NamedTensor("features", "VBF")


class ActivatedConv2d(nn.Module):
    """First half of a residual block: convolution, leaky ReLU; VBCHW to VBCHW."""

    def __init__(self, conv: Conv2d, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.options = conv, options

    def forward(self, inputs_VBCHW: Tensor) -> Tensor:
        """Give the activated convolution VBCHW."""
        return for_each_view(self._of_batch, inputs_VBCHW, options=self.options)

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        return convolve(self.conv, inputs_BCHW, self.options)


class PooledConv2d(ActivatedConv2d):
    """Block of the networks without residuals: convolution, pool, leaky ReLU; VBCHW to VBCHW."""

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        outputs = convolve(self.conv, inputs_BCHW, self.options, activated=False)
        return activate_(max_pool(outputs, self.options), self.options)


class PooledSum(nn.Module):
    """Second half of a residual block: activated convolution, plus a skip, then the pool; VBCHW to VBCHW.

    The skip is what the block reads, its 1×1 convolution `skip_conv` where there is one, or nothing where the block's
    input is not given. It is added raw to the activated branch, and nothing is applied after the sum.
    """

    def __init__(self, conv: Conv2d, skip_conv: Conv2d | None, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.skip_conv, self.options = conv, skip_conv, options

    def forward(self, activated_VBCHW: Tensor, *inputs_VBCHW: Tensor) -> Tensor:
        """Give the block's output VBCHW from its first half's and, where it has a skip, its input."""
        return for_each_view(self._of_batch, activated_VBCHW, *inputs_VBCHW, options=self.options)

    def _of_batch(self, activated_BCHW: Tensor, *inputs_BCHW: Tensor) -> Tensor:
        if not inputs_BCHW and "fused" in self.options.rewrites:
            # A leaky ReLU is increasing, so it may follow the pool, which leaves a quarter of the cells.
            outputs = convolve(self.conv, activated_BCHW, self.options, activated=False)
            return activate_(max_pool(outputs, self.options), self.options)
        branch = convolve(self.conv, activated_BCHW, self.options, is_kept=False)
        for inputs in inputs_BCHW:
            if self.skip_conv is None:
                branch = branch + inputs
            else:
                branch = convolve(self.skip_conv, inputs, self.options, added=branch)
        return max_pool(branch, self.options)


class StandardEncoderBlock(Block):
    """Block of the networks without residuals, one stage."""

    def __init__(
        self,
        name: str,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        first: bool,
        options: ReconstructionOptions,
    ) -> None:
        super().__init__(name, options)
        groups = 1 if first else options.groups(name, in_channels, channels)
        self.conv = same_conv2d(in_channels, channels, kernel_size, groups)

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the block."""
        outputs = NamedTensor(self.tensor, "VBCHW")
        module = PooledConv2d(self.conv, self.options)
        return (Stage(self.name, module, (Read(inputs, reach(self.conv)),), (outputs,)),)


class ResidualEncoderBlock(Block):
    """Block of the residual network: two activated convolutions, plus a skip, then the pool; a stage a convolution.

    The skip is the block's input (``identity``), its 1×1 convolution (``conv``) or nothing (``none``).
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        skip: Literal["none", "identity", "conv"],
        first: bool,
        options: ReconstructionOptions,
    ) -> None:
        super().__init__(name, options)
        groups_a = 1 if first else options.groups(f"{name}.a", in_channels, channels)
        groups_b = options.groups(f"{name}.b", channels, *((in_channels,) if skip == "conv" else ()))
        self.conv_a = same_conv2d(in_channels, channels, kernel_size, groups_a)
        self.conv_b = same_conv2d(channels, channels, 3, groups_b)
        self.conv_c = same_conv2d(in_channels, channels, 1, groups_b) if skip == "conv" else None
        self.skip = skip

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the two halves."""
        activated, outputs = NamedTensor(f"{self.tensor}.a", "VBCHW"), NamedTensor(self.tensor, "VBCHW")
        reads = [Read(activated, reach(self.conv_b))]
        if self.skip != "none":
            reads.append(Read(inputs, "own" if self.conv_c is None else reach(self.conv_c)))
        first = ActivatedConv2d(self.conv_a, self.options)
        second = PooledSum(self.conv_b, self.conv_c, self.options)
        return (
            Stage(f"{self.name}.a", first, (Read(inputs, reach(self.conv_a)),), (activated,)),
            Stage(f"{self.name}.b", second, tuple(reads), (outputs,)),
        )


class EncoderOutput(GroupedLinear):
    """fc7: the features of a view from its last 3×3 feature map; VBCHW (flattened row-major) to VBF."""

    def __init__(self, in_features: int, out_features: int, groups: int, options: ReconstructionOptions) -> None:
        super().__init__(in_features, out_features, groups)
        self.options = options

    def forward(self, inputs_VBCHW: Tensor) -> Tensor:
        """Give the features VBF."""
        return for_each_view(self._of_batch, inputs_VBCHW, options=self.options)

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        return activate_(super().forward(inputs_BCHW.flatten(1)), self.options)
