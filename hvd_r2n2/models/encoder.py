"""The encoder: six blocks and fc7, weights shared over views. Source: arXiv 1604.00449.

Shapes: V views, B batch, C channels, H W rows and columns, F features. All convolutions have stride 1 and
keep the sides; every block ends in the pool of `layers.max_pool`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.models.layers import for_each_view, max_pool, same_conv2d


class StandardEncoderBlock(nn.Module):
    """Block of the networks without residuals: convolution, pool, leaky ReLU; VBCHW to VBCHW."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, slope: float, fast: bool) -> None:
        super().__init__()
        self.conv = same_conv2d(in_channels, out_channels, kernel_size)
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_VBCHW: Tensor) -> Tensor:
        """Give the block's output VBCHW."""
        return for_each_view(self._of_batch, inputs_VBCHW, fast=self.fast)

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        return F.leaky_relu(max_pool(self.conv(inputs_BCHW)), self.slope, inplace=self.fast)


class ResidualEncoderBlock(nn.Module):
    """Block of the residual network: two activated convolutions, plus a skip, then the pool; VBCHW to VBCHW.

    The skip is the block's input (``identity``), its 1×1 convolution (``conv``) or nothing (``none``). It
    is added raw to the activated branch, and nothing is applied after the sum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        skip: Literal["none", "identity", "conv"],
        slope: float,
        fast: bool,
    ) -> None:
        super().__init__()
        self.conv_a = same_conv2d(in_channels, out_channels, kernel_size)
        self.conv_b = same_conv2d(out_channels, out_channels, 3)
        self.conv_c = same_conv2d(in_channels, out_channels, 1) if skip == "conv" else None
        self.skip = skip
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_VBCHW: Tensor) -> Tensor:
        """Give the block's output VBCHW."""
        return for_each_view(self._of_batch, inputs_VBCHW, fast=self.fast)

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        activated = F.leaky_relu(self.conv_a(inputs_BCHW), self.slope, inplace=self.fast)
        branch: Tensor = self.conv_b(activated)
        if self.skip == "none" and self.fast:
            # A leaky ReLU is increasing, so it may follow the pool, which leaves a quarter of the cells.
            return F.leaky_relu(max_pool(branch), self.slope, inplace=True)
        branch = F.leaky_relu(branch, self.slope, inplace=self.fast)
        if self.conv_c is not None:
            branch = branch + self.conv_c(inputs_BCHW)
        elif self.skip == "identity":
            branch = branch + inputs_BCHW
        return max_pool(branch)


class EncoderOutput(nn.Linear):
    """fc7: the features of a view from its last 3×3 feature map; VBCHW (flattened row-major) to VBF."""

    def __init__(self, in_features: int, out_features: int, *, slope: float, fast: bool) -> None:
        super().__init__(in_features, out_features)
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_VBCHW: Tensor) -> Tensor:
        """Give the features VBF."""
        return for_each_view(self._of_batch, inputs_VBCHW, fast=self.fast)

    def _of_batch(self, inputs_BCHW: Tensor) -> Tensor:
        features_BF = F.linear(inputs_BCHW.flatten(1), self.weight, self.bias)
        return F.leaky_relu(features_BF, self.slope, inplace=self.fast)
