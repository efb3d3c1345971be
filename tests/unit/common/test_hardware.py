"""The machine and the versions, against what the system says."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from hvd_r2n2.common.hardware import bfloat16_hardware, find_hardware, find_versions


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


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile", "AMX"),
        ("flags\t\t: fpu avx512f avx512_bf16", "AVX512-BF16"),
        ("Features\t: fp asimd sve bf16 i8mm", "Arm BF16"),
        ("flags\t\t: fpu avx2 avx512f", None),
        ("model name\t: bf16", None),
    ],
)
def test_bfloat16_is_multiplied_with_what_the_processor_says(tmp_path: Path, line: str, found: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert bfloat16_hardware("cpu", tmp_path / "cpuinfo") == found
    assert bfloat16_hardware("cpu", tmp_path / "nowhere") is None


def test_this_processor_is_judged_as_onednn_does() -> None:
    if bfloat16_hardware("cpu") is None:
        pytest.skip("this CPU has no instructions for bfloat16")
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported()
