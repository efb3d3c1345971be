"""A kernel's gradient as products of matrices equals autograd's, in float64, and is used where it is faster."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hvd_r2n2.models import kernel_gradients
from hvd_r2n2.models.kernel_gradients import kernel_gradient, products_are_faster


def sides() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None)
@given(
    image=sides(),
    kernel=sides(),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    samples=st.integers(1, 5),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    innermost=st.booleans(),
    samples_at_once=st.integers(1, 5),
)
def test_equals_autograd(
    image: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    samples: int,
    channels: tuple[int, int],
    innermost: bool,
    samples_at_once: int,
) -> None:
    padding = tuple(max(p, -(-(k - side) // 2)) for p, k, side in zip(padding, kernel, image, strict=True))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, channels[0], *image, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels[1], channels[0], *kernel, generator=generator, dtype=torch.float64).requires_grad_()
    if innermost:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    outputs = F.conv2d(inputs, weight, padding=padding)
    seed = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(outputs, weight, seed)
    sample_bytes = 8 * image[0] * outputs.shape[3] * (kernel[1] * channels[0] + channels[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_gradients, "_CACHED_BYTES", samples_at_once * sample_bytes)
        found = kernel_gradient(inputs, seed, kernel, padding)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("capability", "dtype", "kernel_side", "groups", "expected"),
    [
        ("AVX2", torch.float32, 3, 1, True),
        ("DEFAULT", torch.float32, 7, 1, True),
        ("AVX512", torch.float32, 3, 1, False),
        ("AVX2", torch.float64, 3, 1, False),
        ("AVX2", torch.float32, 1, 1, False),
        ("AVX2", torch.float32, 3, 2, False),
    ],
)
def test_is_used_without_wide_vectors_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, capability: str, dtype: torch.dtype, kernel_side: int, groups: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    images, kernel = torch.zeros(1, 4, 9, 9, dtype=dtype), torch.zeros(4, 4 // groups, kernel_side, kernel_side)
    assert products_are_faster(images, kernel, groups) is expected


def test_grids_keep_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products_are_faster(torch.zeros(1, 4, 5, 5, 5), torch.zeros(4, 4, 3, 3, 3), 1)
