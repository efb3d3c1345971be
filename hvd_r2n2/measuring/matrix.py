"""What this machine can do at most: products of matrices, as torch computes them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

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
"""Of each shape in a step, each one timed: the better one counts."""


class MatrixRunner(Runner):
    """Steps that multiply matrices of a few shapes, in the type that `train.dtype` computes products in.

    On a GPU float32 means TF32, its fastest way with float32 numbers.
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
            left, right = (
                torch.randn(rows, inner, generator=generator),
                torch.randn(inner, columns, generator=generator),
            )
            self._pairs[f"{rows}x{inner}x{columns}"] = left.to(self.device, dtype), right.to(self.device, dtype)
        self._parts_s: dict[str, float] = {}

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Multiply each pair."""
        with torch.inference_mode():
            self._parts_s = {
                name: min(_product_s(*pair) for _ in range(_PRODUCTS)) for name, pair in self._pairs.items()
            }
        return NO_REPORT

    def parts_s(self) -> Mapping[str, float]:
        """Return how long a product of each shape took in the last step."""
        return self._parts_s


def _product_s(left: Tensor, right: Tensor) -> float:
    start = time.perf_counter()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start


def matrix_rates(steps: Sequence[Done]) -> dict[str, float]:
    """Return the floating-point operations a second of each shape, of the median of its times."""
    rates = {}
    for name in steps[0].parts_s:
        rows, inner, columns = map(int, name.split("x"))
        rates[name] = 2 * rows * inner * columns / Spread.of([step.parts_s[name] for step in steps]).median
    return rates
