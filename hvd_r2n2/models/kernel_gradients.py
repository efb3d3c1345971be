"""The gradient of an image convolution's kernel as products of matrices, for CPUs where oneDNN's own is slow.

Without AVX-512 oneDNN computes it at a third to a half of the rate of other convolutions (2 cores of a Zen 3, float32,
PyTorch 2.13: 34 to 97 GFLOP/s, the products 106 to 154, a large product 166).

Shapes: N samples, C channels, H W rows and columns, K L rows and columns of a kernel, O its output channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CACHED_BYTES = 8 * 2**20
"""What is copied for the products of some samples should stay in the cache until it is read."""


def products_are_faster(inputs_NCHW: Tensor, kernel_OCKL: Tensor, groups: int) -> bool:
    """Say whether `kernel_gradient` is faster than oneDNN on this CPU."""
    is_offered = inputs_NCHW.ndim == 4 and groups == 1 and inputs_NCHW.dtype == torch.float32
    has_wide_vectors = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return is_offered and kernel_OCKL.shape[2:].numel() > 1 and not has_wide_vectors


def kernel_gradient(
    inputs_NCHW: Tensor, gradient_NOHW: Tensor, kernel_size: tuple[int, int], padding: tuple[int, ...]
) -> Tensor:
    """Give the gradient (O, C, K, L) of the kernel of a convolution of stride 1, in one group.

    A row of the kernel is one product: of all cells that it meets, each beside its L - 1 neighbours as further
    channels, and the gradients there. Inputs and gradients laid out channels-last are copied least.
    """
    _, channels, height, _ = inputs_NCHW.shape
    _, num_outputs, out_height, out_width = gradient_NOHW.shape
    rows, columns = kernel_size
    # Rows come before samples, so that a shift by a row leaves consecutive cells.
    inputs_HNWC, gradient_HNWO = (tensor.permute(2, 0, 3, 1) for tensor in (inputs_NCHW, gradient_NOHW))
    sample_bytes = height * out_width * (columns * channels + num_outputs) * inputs_NCHW.element_size()
    at_once = max(1, _CACHED_BYTES // sample_bytes)
    found = inputs_NCHW.new_zeros(rows, columns * channels, num_outputs)
    parts = zip(torch.split(inputs_HNWC, at_once, 1), torch.split(gradient_HNWO, at_once, 1), strict=True)
    for own_inputs, own_gradient in parts:
        beside = columns_beside(own_inputs, columns, padding[1])
        own_gradient = own_gradient.contiguous()
        for row in range(rows):
            cells, met = _meeting(out_height, height, row - padding[0])
            found[row].addmm_(beside[met].flatten(0, 2).t(), own_gradient[cells].flatten(0, 2))
    return found.view(rows, columns, channels, num_outputs).permute(3, 2, 0, 1).contiguous()


def columns_beside(inputs_C: Tensor, columns: int, padding: int) -> Tensor:
    """Give each cell of images, whose last two axes are W and C, the L·C values of the columns around it."""
    padded_C = F.pad(inputs_C, (0, 0, padding, padding))
    return padded_C.unfold(-2, columns, 1).transpose(-1, -2).flatten(-2).contiguous()


def _meeting(out_side: int, side: int, shift: int) -> tuple[slice, slice]:
    """Give the outputs that a part of the kernel lets read a cell of the side, and these cells."""
    first = min(max(0, -shift), out_side)
    end = max(first, min(out_side, side - shift))
    return slice(first, end), slice(first + shift, end + shift)
