"""What a figure of speed depends on besides the settings: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import hvd_r2n2

_BFLOAT16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
"""What Linux calls instructions for bfloat16, the fastest first."""


@dataclass(frozen=True)
class Hardware:
    """The machine."""

    cpu: str
    """Name of the processor."""
    cores: int
    """Logical processors of the machine."""
    memory_bytes: int
    gpus: tuple[str, ...]
    """Names of the GPUs that are seen."""

    @property
    def text(self) -> str:
        """Describe it on a line."""
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB{gpus}"


@dataclass(frozen=True)
class Versions:
    """What computes."""

    hvd_r2n2: str
    torch: str
    horovod: str | None
    """None where it is not installed."""
    python: str

    @property
    def text(self) -> str:
        """Describe them on a line."""
        return ", ".join(f"{name} {version or 'not installed'}" for name, version in asdict(self).items())


def find_hardware() -> Hardware:
    """Look at this machine."""
    return Hardware(
        cpu=_processor_name(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())),
    )


def find_versions() -> Versions:
    """Look at this installation."""
    try:
        horovod = importlib.metadata.version("horovod")
    except importlib.metadata.PackageNotFoundError:
        horovod = None
    return Versions(hvd_r2n2.__version__, torch.__version__, horovod, platform.python_version())


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def bfloat16_hardware(device_type: str, information: Path = Path("/proc/cpuinfo")) -> str | None:
    """Say what a kind of device, `cpu` or `cuda`, multiplies bfloat16 with here; None if it has nothing for it."""
    if device_type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return next((name for flag, name in _BFLOAT16_FLAGS.items() if flag in flags), None)
