"""Fused convolutions equal those of autograd's own parts: outputs and gradients, in each type that has them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common import products
from hvd_r2n2.common.gradient_parts import inputs_later, weights_later
from hvd_r2n2.models import fused
from hvd_r2n2.models.fused import ConvSettings, can_fuse, fused_conv, sum_over_cells, transposed_weight

# What may be lost in a type, relative to the largest value.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}

CASES = {
    "image": (ConvSettings((1, 1), slope=0.1), (5, 8, 9, 7), (6, 8, 3, 3)),
    "of three channels": (ConvSettings((3, 3), slope=0.1), (5, 3, 11, 9), (6, 3, 7, 7)),
    "three channels, no activation": (ConvSettings((1, 1)), (2, 3, 11, 9), (6, 3, 3, 3)),
    "groups": (ConvSettings((1, 1), groups=2, slope=0.1), (2, 8, 9, 7), (6, 4, 3, 3)),
    "groups of few channels": (ConvSettings((1, 1), groups=2, slope=0.1), (2, 4, 9, 7), (6, 2, 3, 3)),
    "grid": (ConvSettings((1, 1, 1), slope=0.1), (3, 8, 4, 5, 6), (6, 8, 3, 3, 3)),
    "slab": (ConvSettings((0, 1, 1), slope=0.1), (3, 8, 4, 5, 6), (6, 8, 3, 3, 3)),
    "doubling": (ConvSettings((1, 1, 1), 1, True, (1, 1, 1), 0.1), (3, 8, 4, 5, 3), (6, 8, 3, 3, 3)),
    "doubling, groups": (ConvSettings((1, 1, 1), 2, True, (0, 1, 1), 0.1), (3, 8, 4, 5, 3), (6, 4, 3, 3, 3)),
    "slab, its sign": (ConvSettings((0, 1, 1), slope=0.1, is_kept=False), (3, 8, 4, 5, 6), (6, 8, 3, 3, 3)),
    "doubling slab": (
        ConvSettings((1, 1, 1), 1, True, (1, 1, 1), 0.1, drops_last=2, is_kept=False),
        (3, 8, 4, 5, 3),
        (6, 8, 3, 3, 3),
    ),
}


@pytest.fixture(params=[*TOLERANCE, "bfloat16 in float32", "bfloat16 by torch"], ids=str)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    found: torch.dtype = request.param
    if request.param == "bfloat16 in float32":
        monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: False)
        found = torch.bfloat16
    if request.param == "bfloat16 by torch":
        # What is done around oneDNN's convolutions where a CPU has bfloat16, with torch's own, which are slow and
        # everywhere.
        monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: True)
        monkeypatch.setattr(fused, "_by_onednn", fused._plainly)
        return torch.bfloat16
    if not can_fuse(torch.zeros(1, dtype=found)):
        pytest.skip(f"this CPU has no kernels for {request.param}")
    return found


def unfused(inputs: Tensor, weight: Tensor, bias: Tensor, settings: ConvSettings) -> Tensor:
    if settings.doubles:
        kernel = transposed_weight(weight, settings.groups)
        how = (2, settings.padding, settings.output_padding, settings.groups)
        outputs = F.conv_transpose3d(inputs, kernel, bias, *how)
    else:
        convolve = F.conv2d if inputs.ndim == 4 else F.conv3d
        outputs = convolve(inputs, weight, bias, padding=settings.padding, groups=settings.groups)
    outputs = outputs if settings.slope is None else F.leaky_relu(outputs, settings.slope)
    return outputs[:, :, : -settings.drops_last] if settings.drops_last else outputs


def leaves(case: str, dtype: torch.dtype, *, innermost: bool = True) -> list[Tensor]:
    _, input_shape, weight_shape = CASES[case]
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in (input_shape, weight_shape, weight_shape[:1])
    )
    if innermost:
        layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        inputs = inputs.contiguous(memory_format=layout)
    return [tensor.requires_grad_() for tensor in (inputs, weight, bias)]


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("innermost", [True, False], ids=["channels last", "contiguous"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_parts(case: str, dtype: torch.dtype, innermost: bool) -> None:
    own = leaves(case, dtype, innermost=innermost)
    exact = [tensor.detach().double().requires_grad_() for tensor in own]
    settings = CASES[case][0]
    outputs, expected = fused_conv(*own, settings), unfused(*exact, settings)
    assert_near(outputs, expected, dtype)
    seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    # The sign of an activation near zero may differ with rounding: the same one for both.
    seed = torch.where(expected.detach().abs() > 0.1, seed, 0)
    gradients = torch.autograd.grad(outputs, own, seed.to(dtype))
    for found, right in zip(gradients, torch.autograd.grad(expected, exact, seed.to(dtype).double()), strict=True):
        assert_near(found, right, dtype)


def test_what_is_added_gets_the_gradient(dtype: torch.dtype) -> None:
    settings = ConvSettings((1, 1))
    inputs, weight, bias = leaves("image", dtype)
    added = torch.randn(5, 6, 9, 7, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    outputs = fused_conv(inputs, weight, bias, settings, added)
    exact = [tensor.detach().double().requires_grad_() for tensor in (inputs, weight, bias, added)]
    expected = unfused(*exact[:3], settings) + exact[3]
    assert_near(outputs, expected, dtype)
    seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = torch.autograd.grad(outputs, (inputs, weight, bias, added), seed)
    for own, right in zip(found, torch.autograd.grad(expected, exact, seed.double()), strict=True):
        assert_near(own, right, dtype)


@pytest.mark.parametrize("case", ["image", "of three channels", "doubling"])
def test_two_runs_give_what_one_gives(case: str, dtype: torch.dtype) -> None:
    inputs, weight, bias = leaves(case, dtype)
    outputs = fused_conv(inputs, weight, bias, CASES[case][0])
    seed = torch.ones_like(outputs)
    together = torch.autograd.grad(outputs, (inputs, weight, bias), seed, retain_graph=True)
    with weights_later([weight]):
        found = torch.autograd.grad(outputs, (inputs, weight, bias), seed, retain_graph=True, allow_unused=True)
    assert found[1] is None
    assert found[2] is None
    assert torch.equal(found[0], together[0])
    with inputs_later():
        found = torch.autograd.grad(outputs, (inputs, weight, bias), seed, allow_unused=True)
    assert found[0] is None
    assert torch.equal(found[1], together[1])
    assert torch.equal(found[2], together[2])


def test_weights_kept_in_float32_get_float32_gradients_under_autocast() -> None:
    inputs, weight, bias = leaves("image", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        if not can_fuse(inputs):
            pytest.skip("this CPU has no kernels for bfloat16")
        outputs = fused_conv(inputs, weight, bias, CASES["image"][0])
    assert outputs.dtype == torch.bfloat16
    outputs.float().sum().backward()
    for leaf in (inputs, weight, bias):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32


def test_sum_over_cells_is_the_sum(dtype: torch.dtype) -> None:
    values = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = values.double().sum((0, 2, 3))
    assert_near(sum_over_cells(values), expected, dtype)
    assert_near(sum_over_cells(values.contiguous(memory_format=torch.channels_last)), expected, dtype)


@pytest.mark.parametrize("is_kept", [True, False])
def test_backward_keeps_a_byte_a_cell_of_results_that_nobody_else_keeps(dtype: torch.dtype, is_kept: bool) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs, weight, bias = leaves("grid", dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = fused_conv(inputs, weight, bias, ConvSettings((1, 1, 1), slope=0.1, is_kept=is_kept))
    (result,) = [tensor for tensor in kept if tensor.shape == outputs.shape]
    by_sign = not is_kept and dtype != torch.bfloat16
    assert result.dtype == (torch.bool if by_sign else dtype)
