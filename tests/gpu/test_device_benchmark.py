"""`benchmark device` on a GPU: what differs from a CPU is where time and memory come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hvd_r2n2.measuring.operations import profile_step
from tests.conftest import Launcher
from tests.gpu.marks import ON_GPU

pytestmark = ON_GPU


def test_time_of_kernels_goes_to_the_operations_that_launched_them() -> None:
    device = torch.device("cuda", 0)
    conv, inputs = nn.Conv3d(64, 64, 3, padding=1).to(device), torch.randn(4, 64, 32, 32, 32, device=device)

    def step() -> None:
        conv(inputs).sum().backward()

    step()
    profile = profile_step(step, device)
    assert profile.seconds["convolution forward"] > 0
    assert profile.seconds["convolution backward"] > 0
    assert sum(profile.seconds.values()) == pytest.approx(profile.step_s)
    outputs_bytes = 4 * 64 * 32**3 * 4
    assert profile.peak_bytes >= outputs_bytes


def test_command_measures_on_the_gpu(tmp_path: Path, python: Launcher) -> None:
    words = ("model.width=0.25", "train.device=cuda", "train.batch_size=4", "train.max_views=2")
    settings = [part for word in words for part in ("--set", word)]
    out = tmp_path / "device.json"
    done = python("-m", "hvd_r2n2.benchmark", "device", *settings, "--steps", "2", "--arms", "+unpool", "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert content["hardware"]["gpus"]
    assert content["threads_per_device"] is None
    for arm in content["arms"]:
        for entry in (arm, arm["inference"], arm["single"]):
            assert 0 < entry["of_matrix_rate"] < 1.5
            assert entry["peak_memory_bytes"] == entry["memory"]["allocated"] > 0
            assert entry["breakdown"]["convolution forward"]["seconds"] > 0
