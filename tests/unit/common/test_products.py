"""Products in bfloat16 on a CPU without hardware for it: those of the rounded numbers, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hvd_r2n2.common import products
from hvd_r2n2.common.products import computing_dtype, product, product_dtype
from hvd_r2n2.common.wide_linear import WideWork
from hvd_r2n2.models import create_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def _without_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: False)


def test_layers_compute_in_the_type_of_autocast_or_of_their_inputs() -> None:
    assert computing_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert computing_dtype(torch.zeros(1)) == torch.bfloat16
        assert computing_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64
        assert computing_dtype(torch.zeros(1, device="meta")) == torch.float32


@pytest.mark.parametrize(
    ("has_hardware", "dtype", "device", "expected"),
    [
        (False, torch.bfloat16, CPU, torch.float32),
        (True, torch.bfloat16, CPU, torch.bfloat16),
        (False, torch.bfloat16, CUDA, torch.bfloat16),
        (False, torch.float32, CPU, torch.float32),
        (False, torch.float64, CPU, torch.float64),
    ],
)
def test_only_a_cpu_without_hardware_multiplies_in_float32(
    monkeypatch: pytest.MonkeyPatch,
    has_hardware: bool,
    dtype: torch.dtype,
    device: torch.device,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: has_hardware)
    assert product_dtype(dtype, device) == expected


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize("has_kernels", [True, False])
def test_hardware_is_of_use_where_torch_has_kernels_for_it(
    monkeypatch: pytest.MonkeyPatch, has_instructions: bool, has_kernels: bool
) -> None:
    monkeypatch.setattr(products, "bfloat16_hardware", lambda device: "AMX" if has_instructions else None)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_kernels)
    assert products._cpu_has_bfloat16.__wrapped__() == (has_instructions and has_kernels)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.usefixtures("_without_hardware")
@pytest.mark.parametrize(
    ("function", "shapes", "settings"),
    [
        (F.linear, ((5, 40), (7, 40), (7,)), {}),
        (F.conv2d, ((2, 4, 9, 7), (6, 2, 3, 3), (6,)), {"stride": 2, "padding": 1, "groups": 2}),
        (F.conv3d, ((2, 4, 4, 4, 4), (6, 4, 3, 3, 3)), {"padding": (0, 1, 1)}),
        (F.conv_transpose3d, ((2, 4, 3, 3, 3), (4, 6, 3, 3, 3), (6,)), {"stride": 2, "output_padding": 1}),
    ],
    ids=["linear", "conv2d", "conv3d", "conv_transpose3d"],
)
def test_rounded_numbers_are_multiplied_and_summed_in_float32(
    function: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], settings: dict[str, object]
) -> None:
    own = leaves(*shapes)
    rounded = [tensor.detach().bfloat16().double().requires_grad_() for tensor in own]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = product(function, *own, **settings)
        assert torch.is_autocast_enabled("cpu")
    assert outputs.dtype == torch.bfloat16
    expected = function(*rounded, **settings)
    # Sums in float32 of exact products: only where rounding to bfloat16 is near a tie may they differ, by one step.
    off_by = (outputs.double() - expected.bfloat16().double()).abs()
    assert off_by.count_nonzero() <= 0.01 * off_by.numel()
    assert (off_by <= 2**-7 * expected.abs()).all()
    seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = torch.autograd.grad(outputs, own, seed)
    for gradient, right in zip(found, torch.autograd.grad(expected, rounded, seed.double()), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient.double() - right).abs().max() <= 2**-8 * right.abs().max()


@pytest.mark.usefixtures("_without_hardware")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_left_alone(dtype: torch.dtype) -> None:
    inputs, weight = (tensor.to(dtype) for tensor in leaves((5, 40), (7, 40)))
    assert torch.equal(product(F.linear, inputs, weight), F.linear(inputs, weight))


class _NoSoftware(TorchDispatchMode):
    """Says which products of bfloat16 numbers reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_products = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        if any(word in function.__name__ for word in ("conv", "mm", "matmul", "linear")):
            self.num_products += 1
            if any(isinstance(value, Tensor) and value.dtype == torch.bfloat16 for value in arguments):
                self.found.append(function.__name__)
        return function(*arguments, **(keywords or {}))


@pytest.mark.usefixtures("_without_hardware")
@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("res3d-gru-3", {}, (2, 1, 3, 127, 127)),
        ("res3d-gru-3", {"form": "plain"}, (2, 1, 3, 127, 127)),
        ("3d-lstm-3", {"cross": ()}, (2, 1, 3, 127, 127)),
        ("alexnet", {}, (2, 3, 227, 227)),
    ],
)
def test_no_product_is_computed_in_software(name: str, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    model = create_model(name, width=1 / 16, **settings)
    work, spy = WideWork(), _NoSoftware()
    work.is_last = True
    with work.active(), spy:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.rand(shape))
        logits.float().square().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert spy.num_products > 2 * len([parameter for parameter in model.parameters() if parameter.ndim > 1])
    assert spy.found == []
