"""The decoder: blocks that double the side of the grid, a refining block, and the two logits a cell.

Source: the paper, arXiv 1604.00449. Shapes: B batch, C channels, D H W the x, y, z of the grid. All kernels are 3³ and
keep the sides, but for the skips' 1×1×1; unpooling puts the value at even indices and zeros elsewhere.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.models.layers import add_unpooled_, conv_of_unpooled, same_conv3d, unpool


class StandardUnpoolBlock(nn.Module):
    """Unpool, convolution, leaky ReLU; the side doubles."""

    def __init__(self, in_channels: int, out_channels: int, *, slope: float, fast: bool) -> None:
        super().__init__()
        self.conv = same_conv3d(in_channels, out_channels, 3)
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW."""
        outputs = conv_of_unpooled(inputs_BCDHW, self.conv, fast=self.fast)
        return F.leaky_relu(outputs, self.slope, inplace=self.fast)


class StandardRefineBlock(nn.Module):
    """Convolution, leaky ReLU; the side stays."""

    def __init__(self, in_channels: int, out_channels: int, *, slope: float, fast: bool) -> None:
        super().__init__()
        self.conv = same_conv3d(in_channels, out_channels, 3)
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW."""
        return F.leaky_relu(self.conv(inputs_BCDHW), self.slope, inplace=self.fast)


class ResidualUnpoolBlock(nn.Module):
    """Unpool, two activated convolutions, plus the raw unpooled grid or its 1×1×1 convolution; the side doubles."""

    def __init__(
        self, in_channels: int, out_channels: int, *, skip: Literal["identity", "conv"], slope: float, fast: bool
    ) -> None:
        super().__init__()
        self.conv_a = same_conv3d(in_channels, out_channels, 3)
        self.conv_b = same_conv3d(out_channels, out_channels, 3)
        self.conv_c = same_conv3d(in_channels, out_channels, 1) if skip == "conv" else None
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW."""
        if not self.fast:
            return self._plain(inputs_BCDHW)
        activated = F.leaky_relu(conv_of_unpooled(inputs_BCDHW, self.conv_a, fast=True), self.slope, inplace=True)
        # Not in place: add_unpooled_ overwrites the result, which an in-place leaky ReLU keeps for backward.
        outputs = F.leaky_relu(self.conv_b(activated), self.slope)
        if self.conv_c is None:
            return add_unpooled_(outputs, inputs_BCDHW)
        # The 1×1×1 convolution of zeros is the bias: only the even cells need the product.
        assert self.conv_c.bias is not None
        outputs = outputs + self.conv_c.bias.to(outputs.dtype)[:, None, None, None]
        return add_unpooled_(outputs, F.conv3d(inputs_BCDHW, self.conv_c.weight))

    def _plain(self, inputs_BCDHW: Tensor) -> Tensor:
        unpooled = unpool(inputs_BCDHW)
        activated = F.leaky_relu(self.conv_a(unpooled), self.slope)
        branch = F.leaky_relu(self.conv_b(activated), self.slope)
        return branch + (unpooled if self.conv_c is None else self.conv_c(unpooled))


class ResidualRefineBlock(nn.Module):
    """Activated convolution a; then convolution c of it plus activated convolution b of it; the side stays."""

    def __init__(self, in_channels: int, out_channels: int, *, slope: float, fast: bool) -> None:
        super().__init__()
        self.conv_a = same_conv3d(in_channels, out_channels, 3)
        self.conv_b = same_conv3d(out_channels, out_channels, 3)
        self.conv_c = same_conv3d(out_channels, out_channels, 3)
        self.slope = slope
        self.fast = fast

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW."""
        activated = F.leaky_relu(self.conv_a(inputs_BCDHW), self.slope, inplace=self.fast)
        outputs: Tensor = self.conv_c(activated)
        return outputs + F.leaky_relu(self.conv_b(activated), self.slope, inplace=self.fast)
