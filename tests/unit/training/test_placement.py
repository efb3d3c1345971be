"""Ranks take their devices together, however many of them a host has."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import load_config
from hvd_r2n2.training import placement
from tests.thread_ranks import on_ranks

CONFIG = load_config(None, ["split.strategy=pipeline", "split.devices=[cuda:0,cuda:1]", "train.cpu_threads=1"])


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs in each rank's sight, others for each."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=f"{threading.get_ident()} {gpu}")
    )
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(placement, "set_tf32", lambda tf32: None)


def test_named_gpus_are_taken_by_two_ranks_of_one_host_and_one_of_another(two_gpus: None) -> None:
    def place(communicator: Communicator) -> list[str]:
        communicator.local_size = 2 if communicator.rank < 2 else 1
        lines: list[str] = []
        devices = placement.place_rank(CONFIG, communicator, lines.append).devices
        assert devices == (torch.device("cuda:0"), torch.device("cuda:1"))
        return [line.partition(" on ")[0] for line in lines]

    assert on_ranks(3, place) == [["rank 0", "rank 1", "rank 2"]] * 3
