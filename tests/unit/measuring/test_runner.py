"""What a step needs of memory is counted once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hvd_r2n2.measuring.runner import DistributedRunner
from hvd_r2n2.training.placement import Placement


def test_buckets_of_ddp_are_part_of_what_a_gpu_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    runner = object.__new__(DistributedRunner)  # its own start needs a GPU and a second process
    runner.model = nn.Linear(4, 3)  # type: ignore[assignment]
    runner.placement = Placement((torch.device("cuda", 0),), 1)
    runner._counter, runner._optimizer = None, torch.optim.SGD(runner.model.parameters())
    runner.model(torch.rand(2, 4)).sum().backward()
    (found,) = runner.memory()
    weights = (4 * 3 + 3) * 4
    assert (found.weights, found.gradients, found.peak_bytes) == (weights, 2 * weights, 1000)
    assert found.weights + found.gradients + found.optimizer + found.saved == found.allocated
