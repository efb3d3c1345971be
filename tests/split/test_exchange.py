"""Gathering and scattering are adjoint: ⟨gather(x), y⟩ = ⟨x, scatter(y)⟩, for halves, halos, slices and moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from hvd_r2n2.common.stages import NamedTensor
from hvd_r2n2.split.exchange import Assembly, embed, gather, narrowed, scatter
from hvd_r2n2.split.program import Fragment, Input, Key, Range, Share

GRID = NamedTensor("grid", "BCDHW")
OWN, OTHER = Key("grid", 0, None, 0), Key("grid", 0, None, 1)
HALO = Fragment(OTHER, "D", Range(0, 1))
ZEROS = Fragment(None, "D", Range(-1, 1))


@pytest.mark.parametrize(
    "entry",
    [
        Input(GRID, (Fragment(OWN),)),
        Input(GRID, (Fragment(OWN), Fragment(OTHER)), "C"),
        Input(GRID, (ZEROS, Fragment(OWN), HALO), "D"),
        Input(GRID, (Fragment(OTHER, "D", Range(-1, 1)), Fragment(OWN), Fragment(None, "D", Range(0, 1))), "D"),
        Input(GRID, (Fragment(OWN, "B", Share(1, 2)), Fragment(OTHER, "B", Share(0, 2))), "B"),
        Input(GRID, (Fragment(OWN, "D", Range(2, 1)),)),
    ],
    ids=["whole", "halves of channels", "halo above", "halo below", "samples", "slice"],
)
def test_adjoint(entry: Input) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {OWN: random(3, 2, 4, 3, 2), OTHER: random(3, 2, 4, 3, 2)}
    axes = entry.tensor.axes
    parts = [None if f.key is None else narrowed(values[f.key], f, axes) for f in entry.fragments]
    gathered = gather(entry, parts)
    seed = random(*gathered.shape)
    axis = axes.index(entry.axis) if entry.axis else 0
    lengths = [1 if part is None else part.shape[axis] for part in parts]
    adjoint = {key: torch.zeros_like(value) for key, value in values.items()}
    for fragment, part in zip(entry.fragments, scatter(entry, seed, lengths), strict=True):
        if fragment.key is not None:
            embed(adjoint[fragment.key], fragment, axes, part)
    forward = (gathered * seed).sum()
    backward = sum(((values[key] * adjoint[key]).sum() for key in values), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-12)
    assert forward.abs() > 1e-3


HALVES = Input(GRID, (Fragment(OWN), Fragment(OTHER)), "C")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_what_is_put_together_keeps_its_layout(layout: torch.memory_format) -> None:
    halves = [torch.randn(2, size, 3, 4, 5).contiguous(memory_format=layout) for size in (2, 3)]
    for whole in (gather(HALVES, halves), assembled(halves, num_threads=1)):
        assert torch.equal(whole, torch.cat(halves, dim=1))
        assert whole.is_contiguous(memory_format=layout)


def assembled(halves: list[Tensor], num_threads: int) -> Tensor:
    """Put halves together by several threads, as the executor does."""
    assembly = Assembly(HALVES, halves, num_takers=num_threads)

    def help_out() -> None:
        while (number := assembly.claim()) is not None:
            assembly.copy(number)
            assembly.note_copied()

    with ThreadPoolExecutor(num_threads) as pool:
        for future in [pool.submit(help_out) for _ in range(num_threads)]:
            future.result()
    assert assembly.is_whole
    assert [assembly.take() for _ in range(num_threads)] == [False] * (num_threads - 1) + [True]
    return assembly.whole


def test_two_threads_put_an_input_together_once() -> None:
    halves = [torch.randn(2, size, 3, 4, 5) for size in (2, 3)]
    assert torch.equal(assembled(halves, num_threads=2), torch.cat(halves, dim=1))
