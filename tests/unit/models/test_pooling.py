"""Max pooling equals torch's to the bit, outputs and gradients, and keeps less for backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.models.pooling import max_pool2d


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(3, 12), st.integers(3, 12)),
    window=st.sampled_from([(2, 2, 1), (3, 2, 0), (3, 1, 1), (2, 3, 0)]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], window: tuple[int, int, int], dtype: torch.dtype, layout: torch.memory_format, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that windows have several maxima, of which the first is taken.
    values = torch.randint(-3, 4, shape, generator=generator).to(dtype).contiguous(memory_format=layout)
    own, expected = (values.clone().requires_grad_() for _ in range(2))
    outputs, by_torch = max_pool2d(own, *window), F.max_pool2d(expected, *window)
    assert torch.equal(outputs, by_torch)
    gradient = torch.randn(outputs.shape, generator=generator).to(dtype)
    found, wanted = torch.autograd.grad(outputs, own, gradient), torch.autograd.grad(by_torch, expected, gradient)
    assert torch.equal(found[0], wanted[0])
    assert found[0].stride() == wanted[0].stride()


def test_inputs_are_not_kept() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = max_pool2d(inputs, 2, 2, 1)
    assert [tensor.shape for tensor in kept] == [outputs.shape]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_part_of_the_channels_can_be_pooled(layout: torch.memory_format) -> None:
    whole = torch.randn(2, 6, 9, 7, dtype=torch.float64).contiguous(memory_format=layout)
    part = whole[:, 1:4].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool2d(x, 2, 2, 1), (part,))
