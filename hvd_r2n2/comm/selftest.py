"""A real allreduce over the ranks of this launch, and where each of them is; `python -m hvd_r2n2.comm.selftest`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from hvd_r2n2.comm.communicator import Communicator
from hvd_r2n2.comm.connect import connect
from hvd_r2n2.comm.devices import choose_devices, gather_places, share_of_cores
from hvd_r2n2.comm.ending import run_door

_LENGTHS = (1000, 2**18)
"""Of the vectors that are summed up: MPI sends small and large ones in different ways."""


@dataclass(frozen=True)
class SelfTest:
    """What the ranks found out together."""

    ranks: int
    """How many they are."""
    description: str
    """What carries their operations."""
    device: str
    """Where the tensors were: `cpu` or `cuda`, as training would have them, or `cpu` because of the complaint."""
    is_right: bool
    """Whether the right sums came out on every rank."""
    complaint: str
    """Why training could not have its devices with these ranks; empty if it could."""
    places: tuple[str, ...]
    """One line a rank: its host, device and threads."""


def self_test(communicator: Communicator) -> SelfTest:
    """Sum up vectors on the ranks' devices and check them; every rank calls it and gets the same answer."""
    places = gather_places(communicator)
    place = places[communicator.rank]
    device, complaint = torch.device("cpu"), ""
    try:
        (device,) = choose_devices("auto", place, places)
    except ValueError as error:
        complaint = str(error)
    complaint = next(filter(None, communicator.all_gather_object(complaint)), "")
    device = torch.device("cpu") if complaint else device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    is_right = True
    for length in _LENGTHS:
        numbers = torch.arange(1.0, length + 1, dtype=torch.float64, device=device)
        expected = numbers * (communicator.size * (communicator.size + 1) / 2)
        is_right &= bool((communicator.all_reduce_sum(numbers * (communicator.rank + 1)) == expected).all())
    threads = share_of_cores(place, places)
    line = f"rank {place.rank} -> {place.host} -> {device}, {threads} thread(s) on {len(place.cores)} core(s)"
    return SelfTest(
        ranks=communicator.size,
        description=communicator.description,
        device=device.type,
        is_right=all(communicator.all_gather_object(is_right)),
        complaint=complaint,
        places=tuple(communicator.all_gather_object(line)),
    )


def main() -> None:
    """Run the test and print its result as one line of JSON on rank 0."""
    communicator = connect()
    result = self_test(communicator)
    if communicator.is_root:
        print(json.dumps(vars(result)), flush=True)
    communicator.close()


if __name__ == "__main__":
    run_door("hvd_r2n2.comm.selftest", main)
