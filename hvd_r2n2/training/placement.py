"""Which local devices a rank trains on, and the threads of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hvd_r2n2.comm import Communicator, JobError, choose_devices, gather_places, named_devices, share_of_cores
from hvd_r2n2.config import Config
from hvd_r2n2.training.precision import set_tf32

_DEFAULT_NUM_DEVICES = 2


@dataclass(frozen=True)
class Placement:
    """The local devices of one rank."""

    devices: tuple[torch.device, ...]
    """In the order of the split; the first prepares batches. CPU devices are logical, and GPUs may be the same."""
    threads_per_device: int
    """Of a CPU device."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name the devices; the same GPU twice is two logical halves of it."""
        if self.devices[0].type == "cpu":
            return tuple(f"cpu:{number}" for number in range(len(self.devices)))
        return tuple(str(device) for device in self.devices)


def devices_per_rank(config: Config) -> int:
    """Return how many devices a rank has: those that split.devices names, two with any other split, otherwise one."""
    if config.split.strategy == "none":
        return 1
    return _DEFAULT_NUM_DEVICES if config.split.devices is None else len(config.split.devices)


def place_rank(config: Config, communicator: Communicator, report: Callable[[str], None]) -> Placement:
    """Return this rank's devices, give it its share of the cores, and report every rank's; all ranks call it.

    On GPUs it also sets how this process multiplies float32 numbers (train.tf32), and lets cuDNN choose its kernels by
    timing them.

    Raises:
        ValueError: devices that are named do not exist, or GPUs do not go round.
        JobError: the ranks' placements differ.
    """
    places = gather_places(communicator)
    place = places[communicator.rank]
    cores = config.train.cpu_threads or share_of_cores(place, places)
    if config.split.devices is not None:
        devices = named_devices(config.split.devices, place, places)
    else:
        devices = choose_devices(config.train.device, place, places, devices_per_rank(config))
    threads = max(1, cores // len(devices))
    torch.set_num_threads(cores)
    if devices[0].type == "cuda":
        torch.cuda.set_device(devices[0])
        set_tf32(config.train.tf32)
        torch.backends.cudnn.benchmark = True  # the shapes of a step are few: one for each number of views
    placement = Placement(devices, threads)
    shapes = communicator.all_gather_object([devices.index(device) for device in devices])
    apart = [rank for rank, shape in enumerate(shapes) if shape != shapes[0]]
    if apart:
        raise JobError(
            f"split.devices: rank(s) {', '.join(map(str, apart))} place the parts on other devices than rank 0 "
            f"({shapes[apart[0]]} against {shapes[0]}); all ranks need the same placement"
        )
    is_logical = len(set(devices)) < len(devices)
    described = communicator.all_gather_object(
        f"rank {place.rank} on {place.host}: {', '.join(placement.names)}"
        + (" (logical: parts of one device)" if is_logical else "")
        + (f", {threads} thread(s)" + (" each" if len(devices) > 1 else "") if devices[0].type == "cpu" else "")
    )
    for text in described:
        report(text)
    return placement
