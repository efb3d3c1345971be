"""Which ranks are warned of."""

from __future__ import annotations

import pytest
import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.training import precision
from tests.thread_ranks import on_ranks


def test_ranks_that_compute_bfloat16_in_software_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_hardware", lambda kind: "tensor cores" if kind == "cuda" else None)

    def warn(kinds: str, name: str = "bfloat16") -> list[str | None]:
        def job(communicator: Communicator) -> str | None:
            kind = "cuda" if kinds[communicator.rank] == "g" else "cpu"
            return precision.slow_ranks(name, torch.device(kind), communicator)

        return on_ranks(len(kinds), job)

    assert warn("ggg") == [None] * 3
    assert warn("gcc", "float32") == [None] * 3
    found = warn("gcc")
    assert len(set(found)) == 1
    assert found[0] is not None
    assert "rank(s) 1, 2 have no hardware" in found[0]
