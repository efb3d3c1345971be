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
    local_size: int
    """Ranks on the host."""
    cores: tuple[int, ...]
    """Cores it may run on (its affinity)."""
    num_gpus: int
    """GPUs it can see."""
    visible_gpus: str | None
    """CUDA_VISIBLE_DEVICES as the scheduler or the user set it."""


def gather_places(communicator: Communicator) -> list[RankPlace]:
    """Return the place of every rank, in rank order; called by every rank."""
    place = RankPlace(
        rank=communicator.rank,
        host=socket.gethostname(),
        local_rank=communicator.local_rank,
        local_size=communicator.local_size,
        cores=tuple(sorted(os.sched_getaffinity(0))),
        num_gpus=torch.cuda.device_count(),
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
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
    ranks, or when the scheduler gave each rank its own. A rank alone with one GPU has both halves on it.

    Args:
        requested: `cpu`, `cuda`, or `auto` for GPUs where there are any.
        place: this rank's own.
        places: all ranks'.
        per_rank: devices of a rank.

    Raises:
        ValueError: GPUs are wanted or there, but they do not go round.
    """
    if requested == "cpu" or (requested == "auto" and place.num_gpus == 0):
        return (torch.device("cpu"),) * per_rank
    if place.num_gpus == 0:
        raise ValueError(f"train.device=cuda, but rank {place.rank} on {place.host} sees no GPU (use auto or cpu)")
    neighbours = [other for other in places if other.host == place.host]
    visible = {other.visible_gpus for other in neighbours}
    has_own = len(neighbours) == 1 or (len(visible) == len(neighbours) and None not in visible)
    if has_own and place.num_gpus >= per_rank:
        return tuple(torch.device("cuda", number) for number in range(per_rank))
    if has_own and place.num_gpus == 1:
        return (torch.device("cuda", 0),) * per_rank
    if place.num_gpus >= per_rank * len(neighbours):
        first = per_rank * place.local_rank
        return tuple(torch.device("cuda", first + number) for number in range(per_rank))
    raise ValueError(
        f"{place.host}: {len(neighbours)} ranks of {per_rank} device(s) need {per_rank * len(neighbours)} GPUs, "
        f"{place.num_gpus} are visible (start {place.num_gpus // per_rank} ranks a host, or set train.device=cpu)"
    )
