"""The switches of TF32, which torch has without a GPU as well, and who is warned of bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.training import precision
from hvd_r2n2.training.precision import autocast, set_tf32, slow_ranks
from tests.thread_ranks import on_ranks

MATMUL, CONV = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.fixture(autouse=True)
def _switches_put_back() -> Iterator[None]:
    before = MATMUL.fp32_precision, CONV.fp32_precision
    yield
    MATMUL.fp32_precision, CONV.fp32_precision = before


@pytest.mark.parametrize(("allowed", "expected"), [(True, "tf32"), (False, "ieee")])
def test_both_switches_are_set(allowed: bool, expected: str) -> None:
    set_tf32(not allowed)
    set_tf32(allowed)
    assert (MATMUL.fp32_precision, CONV.fp32_precision) == (expected, expected)


def test_exact_convolutions_can_be_had_for_a_while() -> None:
    set_tf32(True)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        assert CONV.fp32_precision != "tf32"
    assert CONV.fp32_precision == "tf32"


@pytest.mark.parametrize("caches", [True, False])
def test_autocast_keeps_converted_weights_where_it_may(caches: bool) -> None:
    with autocast("bfloat16", torch.device("cpu"), caches=caches):
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled() == caches


def test_ranks_without_hardware_for_bfloat16_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda kind: "tensor cores" if kind == "cuda" else None)

    def warn(kinds: str, name: str = "bfloat16") -> list[str | None]:
        def job(communicator: Communicator) -> str | None:
            kind = "cuda" if kinds[communicator.rank] == "g" else "cpu"
            return slow_ranks(name, torch.device(kind), communicator)

        return on_ranks(len(kinds), job)

    assert warn("ggg") == [None] * 3
    assert warn("gcc", "float32") == [None] * 3
    found = warn("gcc")
    assert len(set(found)) == 1
    assert found[0] is not None
    assert "rank(s) 1, 2 have no hardware for it and multiply in float32" in found[0]
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda kind: "AMX" if kind == "cpu" else None)
    assert warn("cgc")[0] is not None
    assert "rank(s) 1 have no hardware for it and compute in software" in str(warn("cgc")[0])
