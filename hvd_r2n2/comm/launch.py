"""What the launcher says about this process, read from its environment before anything is started."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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

# Numbers of processes that launchers tell of without telling Horovod's MPI its rank. A batch script of Slurm has
# SLURM_NTASKS, but it is one process: only a step (srun) has SLURM_STEP_NUM_TASKS.
_SIGNS_OF_OTHERS = {"SLURM_STEP_NUM_TASKS": "srun", "PMI_SIZE": "another MPI's launcher"}
_PROMISE = "SLURM_NTASKS"
_UNKNOWN = "not as ranks of Open MPI: use mpirun, horovodrun, or srun --mpi=pmix"

# Ranks would have to take on other numbers in the middle of the run; slurm/README.md says why they do not.
_NO_ELASTIC = (
    "horovodrun started this process in elastic mode (HOROVOD_ELASTIC=1), in which ranks come and go, and training "
    "does not support that: leave out --min-np, --max-np and --host-discovery-script, and go on after a failure with "
    "--resume, with any number of ranks that divides train.batch_size (slurm/train.sh does so by itself)"
)


def launch_facts(environment: Mapping[str, str] | None = None) -> Launch:
    """Read the launch facts from `environment` (the process's own by default).

    Raises:
        ValueError: the launcher's variables contradict each other or what Slurm gave the job, or a launcher started
            several processes that cannot find each other: each would train alone, and all would write the same run;
            or the launch is elastic.
    """
    environment = os.environ if environment is None else environment
    if environment.get("HOROVOD_ELASTIC") == "1":
        raise ValueError(_NO_ELASTIC)
    for launcher, names in _VARIABLES.items():
        if names[0] in environment and names[1] in environment:
            rank, size, local_rank, local_size = (_number(environment.get(name, ""), name) for name in names)
            if not 0 <= rank < size:
                raise ValueError(f"{names[0]}={rank} does not fit {names[1]}={size}: start all ranks with one launcher")
            launch = Launch(launcher, rank, size, local_rank, local_size)
            _check_promise(launch, environment)
            return launch
    _refuse_strangers(environment)
    return Launch("python", 0, 1, 0, 1)


def find_launcher(name: str) -> Path | None:
    """Return where a launcher is: beside this Python, or on PATH."""
    beside = Path(sys.prefix) / "bin" / name
    found = shutil.which(name)
    return beside if beside.exists() else Path(found) if found else None


def launch_environment() -> dict[str, str]:
    """Return the environment in which a process that no launcher may know of yet starts ranks of its own.

    Without what a launcher told this process; this Python comes first on PATH, and root may start ranks.
    """
    told = {name for names in _VARIABLES.values() for name in names} | _SIGNS_OF_OTHERS.keys() | {_PROMISE}
    kept = {name: value for name, value in os.environ.items() if name not in told}
    kept["PATH"] = f"{sys.prefix}/bin{os.pathsep}{os.environ.get('PATH', '')}"
    if os.geteuid() == 0:
        kept |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept


def _check_promise(launch: Launch, environment: Mapping[str, str]) -> None:
    """Raise ValueError if a batch job has another number of tasks than its launcher started ranks.

    Within a step the number is the step's, which for mpirun's own helpers on other nodes is theirs.
    """
    promised = environment.get(_PROMISE, "")
    if "SLURM_STEP_ID" in environment or not promised.isdigit() or int(promised) == launch.size:
        return
    raise ValueError(
        f"{launch.launcher} started {launch.size} rank(s), but Slurm gave this job {promised} task(s) ({_PROMISE}): "
        f"start one rank a task (-np {promised}), ask sbatch for --ntasks={launch.size}, "
        f"or unset {_PROMISE} if this is meant"
    )


def _refuse_strangers(environment: Mapping[str, str]) -> None:
    """Raise ValueError if this process is one of several, started in a way that its MPI does not know of."""
    for name, what in _SIGNS_OF_OTHERS.items():
        if environment.get(name, "").isdigit() and int(environment[name]) > 1:
            raise ValueError(f"{what} started {environment[name]} processes ({name}), but {_UNKNOWN}")
    if "PMIX_RANK" in environment and "SLURM_STEP_NUM_TASKS" not in environment:
        raise ValueError(f"a PMIx launcher started this process (PMIX_RANK={environment['PMIX_RANK']}), but {_UNKNOWN}")


def _number(text: str, name: str) -> int:
    digits = text.split("(")[0].split(",")[0]  # Slurm writes 2(x3) for two tasks on each of three nodes
    if not digits.isdigit():
        raise ValueError(f"{name}={text!r} in the environment is not a number: start the ranks with one launcher")
    return int(digits)
