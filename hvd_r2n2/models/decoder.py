"""The decoder: blocks that double the side of the grid, a refining block, and the two logits a cell.

Source: the paper, arXiv 1604.00449. Shapes: B batch, C channels, D H W the x, y, z of the grid. All kernels are 3³ and
keep the sides, but for the skips' 1×1×1; unpooling puts the value at even indices and zeros elsewhere.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common.products import product
from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.models.layers import (
    Block,
    GridStage,
    SameConv3d,
    add_unpooled,
    convolve,
    convolve_unpooled,
    reach,
    unpool,
)
from hvd_r2n2.models.options import ReconstructionOptions


class Conv(GridStage):
    """Convolution; the side stays."""

    def __init__(self, conv: SameConv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the convolution BCDHW."""
        outputs: Tensor = self.conv(inputs_BCDHW, slab=self.slab)
        return outputs


class ActivatedConv(GridStage):
    """Convolution, leaky ReLU; the side stays."""

    def __init__(self, conv: SameConv3d, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.options = conv, options

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the activated convolution BCDHW."""
        return convolve(self.conv, inputs_BCDHW, self.options, slab=self.slab)


class ActivatedUnpoolConv(GridStage):
    """Unpool, convolution, leaky ReLU; the side doubles."""

    def __init__(self, conv: SameConv3d, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.options = conv, options

    def forward(self, inputs_BCDHW: Tensor) -> Tensor:
        """Give the activated convolution BCDHW."""
        return convolve_unpooled(self.conv, inputs_BCDHW, self.options, slab=self.slab)


class UnpooledSum(GridStage):
    """Second half of a residual unpool block: activated convolution plus the raw unpooled grid or its 1×1×1 one."""

    def __init__(self, conv: SameConv3d, skip_conv: SameConv3d | None, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.skip_conv, self.options = conv, skip_conv, options

    def forward(self, activated_BCDHW: Tensor, inputs_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW from its first half's and, of half the side, the block's input."""
        outputs = convolve(self.conv, activated_BCDHW, self.options, slab=self.slab, is_kept=False)
        if "unpool" not in self.options.rewrites:
            unpooled = unpool(inputs_BCDHW)
            return outputs + (unpooled if self.skip_conv is None else self.skip_conv(unpooled))
        if self.skip_conv is None:
            return add_unpooled(outputs, inputs_BCDHW)
        # The 1×1×1 convolution of zeros is the bias: only the even cells need the product.
        products = product(F.conv3d, inputs_BCDHW, self.skip_conv.weight, groups=self.skip_conv.groups)
        return add_unpooled(outputs, products, self.skip_conv.bias)


class RefinedSum(GridStage):
    """Second half of a residual refining block: a convolution plus another, activated one of the same input."""

    def __init__(self, conv: SameConv3d, skip_conv: SameConv3d, options: ReconstructionOptions) -> None:
        super().__init__()
        self.conv, self.skip_conv, self.options = conv, skip_conv, options

    def forward(self, activated_BCDHW: Tensor) -> Tensor:
        """Give the block's output BCDHW."""
        branch = convolve(self.conv, activated_BCDHW, self.options, slab=self.slab, is_kept=False)
        return convolve(self.skip_conv, activated_BCDHW, self.options, slab=self.slab, added=branch)


class StandardUnpoolBlock(Block):
    """Unpool, convolution, leaky ReLU; one stage."""

    def __init__(self, name: str, in_channels: int, channels: int, options: ReconstructionOptions) -> None:
        super().__init__(name, options)
        self.conv = SameConv3d(in_channels, channels, 3, options.groups(name, in_channels, channels))

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the block."""
        module, outputs = ActivatedUnpoolConv(self.conv, self.options), NamedTensor(self.tensor, "BCDHW")
        return (Stage(self.name, module, (Read(inputs, reach(self.conv), (0, 1)),), (outputs,)),)


class StandardRefineBlock(Block):
    """Convolution, leaky ReLU; one stage."""

    def __init__(self, name: str, in_channels: int, channels: int, options: ReconstructionOptions) -> None:
        super().__init__(name, options)
        self.conv = SameConv3d(in_channels, channels, 3, options.groups(name, in_channels, channels))

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the block."""
        module, outputs = ActivatedConv(self.conv, self.options), NamedTensor(self.tensor, "BCDHW")
        return (Stage(self.name, module, (Read(inputs, reach(self.conv), (1, 1)),), (outputs,)),)


class ResidualUnpoolBlock(Block):
    """Unpool, two activated convolutions, plus the raw unpooled grid or its 1×1×1 convolution; two stages."""

    def __init__(
        self,
        name: str,
        in_channels: int,
        channels: int,
        *,
        skip: Literal["identity", "conv"],
        options: ReconstructionOptions,
    ) -> None:
        super().__init__(name, options)
        groups_a = options.groups(f"{name}.a", in_channels, channels)
        groups_b = options.groups(f"{name}.b", in_channels, channels)
        self.conv_a = SameConv3d(in_channels, channels, 3, groups_a)
        self.conv_b = SameConv3d(channels, channels, 3, groups_b)
        self.conv_c = SameConv3d(in_channels, channels, 1, groups_b) if skip == "conv" else None

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the two halves."""
        activated, outputs = NamedTensor(f"{self.tensor}.a", "BCDHW"), NamedTensor(self.tensor, "BCDHW")
        first = ActivatedUnpoolConv(self.conv_a, self.options)
        second = UnpooledSum(self.conv_b, self.conv_c, self.options)
        skip_read = Read(inputs, "own" if self.conv_c is None else reach(self.conv_c))
        return (
            Stage(f"{self.name}.a", first, (Read(inputs, reach(self.conv_a), (0, 1)),), (activated,)),
            Stage(f"{self.name}.b", second, (Read(activated, reach(self.conv_b), (1, 1)), skip_read), (outputs,)),
        )


class ResidualRefineBlock(Block):
    """Activated convolution a; then convolution c of it plus activated convolution b of it; two stages."""

    def __init__(self, name: str, in_channels: int, channels: int, options: ReconstructionOptions) -> None:
        super().__init__(name, options)
        groups_a = options.groups(f"{name}.a", in_channels, channels)
        groups_b = options.groups(f"{name}.b", channels)
        self.conv_a = SameConv3d(in_channels, channels, 3, groups_a)
        self.conv_b = SameConv3d(channels, channels, 3, groups_b)
        self.conv_c = SameConv3d(channels, channels, 3, groups_b)

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the two halves."""
        activated, outputs = NamedTensor(f"{self.tensor}.a", "BCDHW"), NamedTensor(self.tensor, "BCDHW")
        first = ActivatedConv(self.conv_a, self.options)
        second = RefinedSum(self.conv_b, self.conv_c, self.options)
        return (
            Stage(f"{self.name}.a", first, (Read(inputs, reach(self.conv_a), (1, 1)),), (activated,)),
            Stage(f"{self.name}.b", second, (Read(activated, reach(self.conv_b), (1, 1)),), (outputs,)),
        )
