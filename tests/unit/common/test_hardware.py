"""The machine and the versions, against what the system says."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from hvd_r2n2.common.hardware import find_hardware, find_versions


def test_hardware_is_that_of_this_machine() -> None:
    hardware = find_hardware()
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert hardware.memory_bytes == int(total.split()[1]) * 1024
    assert hardware.cores == os.cpu_count()
    assert len(hardware.gpus) == torch.cuda.device_count()
    assert hardware.cpu
    assert hardware.text.startswith(f"{hardware.cpu}, {hardware.cores} cores")


def test_versions_are_those_that_compute() -> None:
    versions = find_versions()
    assert (versions.torch, versions.python) == (torch.__version__, platform.python_version())
    assert f"torch {torch.__version__}" in versions.text
