"""What this machine can do at most: products of matrices, by the fastest library that torch has for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.products import product_dtype
from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.runner import NO_REPORT, Runner
from hvd_r2n2.training.engine import StepReport
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.precision import set_tf32

_SHAPES = {
    # Rows, inner size, columns. A GPU needs larger ones; the long ones are what convolutions look like.
    "cpu": ((2048, 2048, 2048), (1024, 4096, 1024), (16384, 1152, 128)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (65536, 1152, 256)),
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_PRODUCTS = 2
"""Of each shape and library in a step, each one timed: the best one counts."""


class MatrixRunner(Runner):
    """Steps that multiply matrices of a few shapes, in the type that `train.dtype` computes products in.

    On a GPU float32 means TF32, its fastest way with float32 numbers. A CPU multiplies by torch's BLAS and by oneDNN,
    which computes its convolutions: MKL, the BLAS of most builds, has less than half of oneDNN's rate in float32 on a
    CPU with AVX-512 that is not Intel's.
    """

    def __init__(self, config: Config, communicator: Communicator) -> None:
        """Draw the matrices.

        Raises:
            ValueError: the settings are not possible.
        """
        super().__init__(place_rank(config, communicator, lambda text: None))
        self.device = self.placement.devices[0]
        if self.device.type == "cuda":
            set_tf32(True)
        dtype = product_dtype(_DTYPES[config.train.dtype], self.device)
        generator = torch.Generator().manual_seed(config.train.seed)
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for rows, inner, columns in _SHAPES[self.device.type]:
            inputs, weight = (torch.randn(side, inner, generator=generator) for side in (rows, columns))
            self._pairs[f"{rows}x{inner}x{columns}"] = inputs.to(self.device, dtype), weight.to(self.device, dtype)
        self._libraries: list[Callable[[Tensor, Tensor], Tensor]] = [F.linear]
        has_onednn = self.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if has_onednn and dtype != torch.float64:  # which it does not have
            self._libraries.append(_by_onednn)
        self._parts_s: dict[str, float] = {}

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Multiply each pair, by each library."""
        with torch.inference_mode():
            self._parts_s = {
                name: min(_product_s(library, *pair) for _ in range(_PRODUCTS) for library in self._libraries)
                for name, pair in self._pairs.items()
            }
        return NO_REPORT

    def parts_s(self) -> Mapping[str, float]:
        """Return how long a product of each shape took in the last step."""
        return self._parts_s


def _by_onednn(inputs_RI: Tensor, weight_CI: Tensor) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_RI, weight_CI, None, "none", [], "")
    return outputs


def _product_s(library: Callable[[Tensor, Tensor], Tensor], inputs_RI: Tensor, weight_CI: Tensor) -> float:
    start = time.perf_counter()
    library(inputs_RI, weight_CI)
    if inputs_RI.is_cuda:
        torch.cuda.synchronize(inputs_RI.device)
    return time.perf_counter() - start


def matrix_rates(steps: Sequence[Done]) -> dict[str, float]:
    """Return the floating-point operations a second of each shape, of the median of its times."""
    rates = {}
    for name in steps[0].parts_s:
        rows, inner, columns = map(int, name.split("x"))
        rates[name] = 2 * rows * inner * columns / Spread.of([step.parts_s[name] for step in steps]).median
    return rates
