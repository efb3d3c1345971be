"""What a benchmark may use of this machine, and what each process of an arm gets of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hvd_r2n2.comm import launch_environment
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.networks import rank_environment
from hvd_r2n2.training.placement import devices_per_rank


@dataclass(frozen=True)
class Machine:
    """The devices that all arms share.

    All arms run on the same cores: as many as the devices have threads. The processes of an arm share them out.
    """

    num_devices: int
    """Devices of a split."""
    threads: int
    """Threads of a CPU device."""
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    """What CUDA_VISIBLE_DEVICES calls the GPUs; none where the arms run on CPUs."""

    @staticmethod
    def find(config: Config, num_devices: int | None = None) -> Machine:
        """Look at this machine; a device has its part of a rank's `train.cpu_threads`, or else its share of the cores.

        There are as many devices as given, or as `split.devices` names, or two.

        Raises:
            ValueError: GPUs are asked for and there are none.
        """
        num_devices = num_devices or len(config.split.devices or (0, 0))
        allowed = sorted(os.sched_getaffinity(0))
        given = config.train.cpu_threads
        threads = max(1, given // devices_per_rank(config) if given else len(allowed) // num_devices)
        count = 0 if config.train.device == "cpu" else torch.cuda.device_count()
        if config.split.devices is not None and config.split.devices[0].startswith("cpu"):
            count = 0
        if config.train.device == "cuda" and count == 0:
            raise ValueError("train.device=cuda: no GPU is seen here (use train.device=cpu)")
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",")[:count] if named else [str(number) for number in range(count)]
        return Machine(num_devices, threads, tuple(allowed[: num_devices * threads]), tuple(gpus))

    @property
    def device_type(self) -> str:
        """Kind of the devices: `cpu` or `cuda`."""
        return "cuda" if self.gpus else "cpu"

    def why_not(self, arm: ArmSpec) -> str | None:
        """Say why an arm is not possible here; None if it is."""
        if (arm.kind == "ddp" or arm.is_under_mpirun) and self.gpus and len(self.gpus) < arm.processes:
            return f"{arm.processes} ranks need {arm.processes} GPUs, {len(self.gpus)} seen"
        return None

    def settings(self, arm: ArmSpec, config: Config) -> Config:
        """Return an arm's settings with the device and the threads of each of its processes."""
        own = arm.config(config)
        num_devices = self.num_devices if own.split.strategy != "none" else 1
        if self.gpus:
            return arm.with_overrides("train.device=cuda", "train.cpu_threads=null").config(config)
        return arm.with_overrides("train.device=cpu", f"train.cpu_threads={num_devices * self.threads}").config(config)

    def cores_of(self, arm: ArmSpec, rank: int) -> tuple[int, ...]:
        """Return the cores of one process: all of them, or its share where there are enough for all."""
        share = len(self.cores) // self.num_devices
        if arm.processes == 1 or share < self.threads:
            return self.cores
        return self.cores[rank % self.num_devices * share :][:share]

    def environment(self, arm: ArmSpec, rank: int | None) -> Mapping[str, str]:
        """Return the environment of one process; None for the launcher of them all."""
        own = launch_environment() | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        if arm.is_under_mpirun:
            own |= rank_environment(arm.network)
        if self.gpus and rank is not None and arm.processes > 1:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[rank % len(self.gpus)]
        return own
