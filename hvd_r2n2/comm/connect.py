"""Joining the job."""

from __future__ import annotations

import importlib.util
import sys

from hvd_r2n2.comm.communicator import Alone, Communicator, JobError
from hvd_r2n2.comm.launch import launch_facts
from hvd_r2n2.config import HorovodConfig


def connect(settings: HorovodConfig | None = None) -> Communicator:
    """Return the ranks this process was started with; called once, by every rank.

    A process on its own never touches Horovod or MPI. `settings` are Horovod's, the same on every rank.

    Raises:
        JobError: several ranks were started, but Horovod is not there or sees another world.
    """
    launch = launch_facts()
    has_horovod = importlib.util.find_spec("horovod") is not None
    if launch.size == 1:
        return Alone("alone" if has_horovod else "alone (Horovod is not installed: only one rank can train)")
    if not has_horovod:
        raise JobError(
            f"{launch.launcher} started {launch.size} ranks, but Horovod is not installed in {sys.prefix}: "
            "run scripts/setup.sh, or start one process alone"
        )
    from hvd_r2n2.comm.ranks import HorovodRanks  # loads Horovod and MPI, which one rank must not need

    return HorovodRanks(launch, settings or HorovodConfig())
