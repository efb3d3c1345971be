"""A real allreduce over the ranks of this launch, and where each of them is; `python -m hvd_r2n2.comm.selftest`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from hvd_r2n2.comm.communicator import Communicator
from hvd_r2n2.comm.connect import connect, run_door
from hvd_r2n2.comm.devices import choose_devices, gather_places, share_of_cores


@dataclass(frozen=True)
class SelfTest:
    """What the ranks found out together."""

    ranks: int
    """How many they are."""
    description: str
    """What carries their operations."""
    is_right: bool
    """Whether the sum of 1 … ranks came out on every rank."""
    places: tuple[str, ...]
    """One line a rank: its host, device and threads."""


def self_test(communicator: Communicator) -> SelfTest:
    """Reduce a tensor over all ranks and check it; every rank calls it and gets the same answer."""
    total = communicator.all_reduce_sum(torch.full((1000,), float(communicator.rank + 1), dtype=torch.float64))
    expected = communicator.size * (communicator.size + 1) / 2
    answers = communicator.all_gather_object(bool((total == expected).all()))
    places = gather_places(communicator)
    place = places[communicator.rank]
    try:
        device = str(choose_devices("auto", place, places)[0])
    except ValueError as error:
        device = f"no device: {error}"
    threads = share_of_cores(place, places)
    lines = communicator.all_gather_object(
        f"rank {place.rank} -> {place.host} -> {device}, {threads} thread(s) on {len(place.cores)} core(s)"
    )
    return SelfTest(communicator.size, communicator.description, all(answers), tuple(lines))


def main() -> None:
    """Run the test and print its result as one line of JSON on rank 0."""
    communicator = connect()
    result = self_test(communicator)
    if communicator.is_root:
        print(json.dumps(vars(result)), flush=True)
    communicator.close()


if __name__ == "__main__":
    run_door("hvd_r2n2.comm.selftest", main)
