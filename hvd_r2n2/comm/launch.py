"""What the launcher says about this process, read from its environment before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    launcher: str
    """`mpirun`, `horovodrun --gloo`, `srun`, or `python` for a process on its own."""
    rank: int
    """Number of this rank, from 0."""
    size: int
    """Number of ranks that the launcher started."""
    local_rank: int
    """Number of this rank on its host."""
    local_size: int
    """Number of ranks on this host."""

    @property
    def is_mpi(self) -> bool:
        """Whether MPI may be initialised here: a launcher that speaks it is there."""
        return self.launcher in ("mpirun", "srun")


# launcher: variables of rank, size, local rank, local size. horovodrun with MPI calls mpirun.
_VARIABLES = {
    "horovodrun --gloo": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def launch_facts(environment: Mapping[str, str] | None = None) -> Launch:
    """Read the launch facts from `environment` (the process's own by default).

    Raises:
        ValueError: the launcher's variables contradict each other.
    """
    environment = os.environ if environment is None else environment
    for launcher, names in _VARIABLES.items():
        if names[0] in environment and names[1] in environment:
            rank, size, local_rank, local_size = (_number(environment.get(name, ""), name) for name in names)
            if not 0 <= rank < size:
                raise ValueError(f"{names[0]}={rank} does not fit {names[1]}={size}: start all ranks with one launcher")
            return Launch(launcher, rank, size, local_rank, local_size)
    return Launch("python", 0, 1, 0, 1)


def _number(text: str, name: str) -> int:
    digits = text.split("(")[0].split(",")[0]  # Slurm writes 2(x3) for two tasks on each of three nodes
    if not digits.isdigit():
        raise ValueError(f"{name}={text!r} in the environment is not a number: start the ranks with one launcher")
    return int(digits)
