"""Which host, cores and devices each rank has: gathered once, and shared out fairly."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hvd_r2n2.comm.communicator import Communicator


@dataclass(frozen=True)
class RankPlace:
    """Where one rank runs."""

    rank: int
    """Number of the rank."""
    host: str
    """Name of its host."""
    local_rank: int
    """Its number on the host."""
    cores: tuple[int, ...]
    """Cores it may run on (its affinity)."""
    gpus: tuple[str, ...]
    """Identities of the GPUs it can see: a scheduler may show every rank another one, each under the number 0."""


def gather_places(communicator: Communicator) -> list[RankPlace]:
    """Return the place of every rank, in rank order; called by every rank."""
    place = RankPlace(
        rank=communicator.rank,
        host=socket.gethostname(),
        local_rank=communicator.local_rank,
        cores=tuple(sorted(os.sched_getaffinity(0))),
        gpus=tuple(str(torch.cuda.get_device_properties(gpu).uuid) for gpu in range(torch.cuda.device_count())),
    )
    return communicator.all_gather_object(place)


def share_of_cores(place: RankPlace, places: Sequence[RankPlace]) -> int:
    """Return the number of threads that are this rank's share: its cores over the ranks that have the same ones."""
    sharing = sum(other.host == place.host and other.cores == place.cores for other in places)
    return max(1, len(place.cores) // sharing)


def choose_devices(
    requested: str, place: RankPlace, places: Sequence[RankPlace], per_rank: int = 1
) -> tuple[torch.device, ...]:
    """Return this rank's `per_rank` devices.

    GPUs are taken (rank r on its host has numbers per_rank·r and following) when the host has enough for all its
    ranks, or when each rank sees GPUs that no other one sees. A rank with a single GPU of its own has all its devices
    on it.

    Args:
        requested: `cpu`, `cuda`, or `auto` for GPUs if any rank sees one.
        place: this rank's own.
        places: all ranks'.
        per_rank: devices of a rank.

    Raises:
        ValueError: GPUs are wanted or there, but they do not go round.
    """
    if requested == "cpu" or (requested == "auto" and not any(other.gpus for other in places)):
        return (torch.device("cpu"),) * per_rank
    if not place.gpus:
        why = "train.device=cuda" if requested == "cuda" else "other ranks see GPUs"
        raise ValueError(f"{why}, but rank {place.rank} on {place.host} sees no GPU (use train.device=cpu)")
    neighbours = [other for other in places if other.host == place.host]
    num_gpus, num_seen = len(place.gpus), sum(len(other.gpus) for other in neighbours)
    if len({gpu for other in neighbours for gpu in other.gpus}) == num_seen:
        if num_gpus >= per_rank:
            return tuple(torch.device("cuda", number) for number in range(per_rank))
        if num_gpus == 1:
            return (torch.device("cuda", 0),) * per_rank
    elif any(other.gpus != place.gpus for other in neighbours):
        raise ValueError(
            f"{place.host}: its ranks see some GPUs in common and some not, or in another order "
            "(CUDA_VISIBLE_DEVICES must be the same for all of them, or name GPUs of its own for each)"
        )
    elif num_gpus >= per_rank * len(neighbours):
        first = per_rank * place.local_rank
        return tuple(torch.device("cuda", first + number) for number in range(per_rank))
    fits = num_gpus // per_rank
    raise ValueError(
        f"{place.host}: {len(neighbours)} rank(s) of {per_rank} device(s) need {per_rank * len(neighbours)} GPUs, "
        f"{num_gpus} visible ({f'start {fits} rank(s) a host' if fits else 'make more visible'}, "
        "or set train.device=cpu)"
    )


def named_devices(names: Sequence[str], place: RankPlace, places: Sequence[RankPlace]) -> tuple[torch.device, ...]:
    """Return the devices that split.devices names: GPUs of this rank, or parts of the CPU.

    Args:
        names: as `cuda:0`, or `cpu:0`, all of one kind and the same on every rank.
        place: this rank's own.
        places: all ranks'.

    Raises:
        ValueError: a GPU does not exist, or other ranks of the host have it, too.
    """
    if names[0].startswith("cpu"):
        return (torch.device("cpu"),) * len(names)
    numbers = [int(name.partition(":")[2]) for name in names]
    count = len(place.gpus)
    for name, number in zip(names, numbers, strict=True):
        if number >= count:
            seen = f"this rank sees cuda:0 to cuda:{count - 1}" if count else "this rank sees no GPU"
            raise ValueError(f"split.devices: {name} does not exist ({seen})")
    own = {place.gpus[number] for number in numbers}
    neighbours = [other for other in places if other.host == place.host and other.rank != place.rank]
    if any(own & {other.gpus[number] for number in numbers if number < len(other.gpus)} for other in neighbours):
        raise ValueError(
            f"split.devices: {', '.join(names)} are shared by several ranks (leave split.devices null: each rank "
            "of a host then takes devices of its own)"
        )
    return tuple(torch.device("cuda", number) for number in numbers)
