"""Putting work off changes no gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hvd_r2n2.common import products
from hvd_r2n2.common.wide_linear import WideWork, wide_linear


@pytest.mark.parametrize("has_bias", [False, True])
def test_gradients_over_three_micro_batches_are_the_plain_ones(has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias = random(7, 3), random(7) if has_bias else None
    batches = [(random(2, size, 3), random(2, size, 7)) for size in (1, 4, 2)]
    results = []
    for function, work in ((F.linear, None), (wide_linear, WideWork())):
        leaf = weight.clone().requires_grad_()
        bias_leaf = None if bias is None else bias.clone().requires_grad_()
        input_gradients = []
        for number, (inputs, seed) in enumerate(batches):
            inputs = inputs.clone().requires_grad_()
            if work is None:
                function(inputs, leaf, bias_leaf).backward(seed)
            else:
                work.is_last = number == len(batches) - 1
                with work.active():
                    function(inputs, leaf, bias_leaf).backward(seed)
                assert work.is_last or leaf.grad is None
            input_gradients.append(inputs.grad)
        results.append([leaf.grad, *input_gradients, *([] if bias_leaf is None else [bias_leaf.grad])])
    for plain, put_off in zip(*results, strict=True):
        torch.testing.assert_close(put_off, plain, rtol=0, atol=1e-13)


def test_weight_is_converted_once_for_autocast() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    work = WideWork()
    with work.active(), torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = (wide_linear(torch.ones(2, 3), weight) for _ in range(2))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, F.linear(torch.ones(2, 3).bfloat16(), weight.detach().bfloat16()))
    assert work.converted(weight, torch.bfloat16) is work.converted(weight, torch.bfloat16)
    work.is_last = True
    (first.sum() + second.sum()).backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, torch.full((5, 3), 4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_run_that_keeps_nothing_gives_the_same_bits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((70, 300), (70,)))
    inputs, work = torch.randn(20, 300, generator=generator), WideWork()
    with work.active(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        with torch.no_grad():
            first = wide_linear(inputs, weight, bias)
        assert not first.requires_grad
        again = wide_linear(inputs, weight, bias)
    assert again.dtype == dtype
    assert torch.equal(first, again.detach())


@pytest.mark.parametrize("num_rows", [3, 100])
def test_gradients_in_bfloat16_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: False)
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((num_rows, 8), (5, 8)))
    seed = torch.randn(num_rows, 5, generator=generator).bfloat16()
    rounded, exact = (tensor.detach().bfloat16().double().requires_grad_() for tensor in (inputs, weight))
    expected = F.linear(rounded, exact)
    expected.backward(seed.double())
    work = WideWork()
    work.is_last = True
    with work.active():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = wide_linear(inputs, weight)
        outputs.backward(seed)
    assert outputs.dtype == torch.bfloat16
    assert (outputs.double() - expected).abs().max() <= 2**-8 * expected.abs().max()
    for found, right in ((inputs.grad, rounded.grad), (weight.grad, exact.grad)):
        assert found is not None
        assert right is not None
        assert found.dtype == torch.float32
        assert (found.double() - right).abs().max() <= 1e-6 * right.abs().max()


def test_without_work_put_off_it_is_the_plain_layer() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    inputs = torch.randn(2, 3)
    assert torch.equal(wide_linear(inputs, weight), F.linear(inputs, weight))
