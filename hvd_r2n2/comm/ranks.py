"""Horovod behind the Communicator."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import horovod.torch as hvd
import torch
from typing_extensions import override

from hvd_r2n2.comm.communicator import Communicator, JobError
from hvd_r2n2.comm.ending import abort
from hvd_r2n2.comm.launch import Launch
from hvd_r2n2.comm.settings import horovod_environment, in_words
from hvd_r2n2.comm.watch import StallWatch
from hvd_r2n2.config import HorovodConfig

T = TypeVar("T")

_STALL_TIMEOUT_S = 300.0
"""Until `watch` says otherwise."""
_THREADS = Path("/proc/self/task")
_NICENESS = 10
"""Of the threads of Horovod and MPI beside arithmetic on the same cores: a tenth of a core where both want it."""


class HorovodRanks(Communicator):
    """All ranks of the job, over Horovod with MPI or Gloo."""

    def __init__(self, launch: Launch, settings: HorovodConfig) -> None:
        """Initialise Horovod; of its settings, those in the environment go before those given.

        Raises:
            JobError: Horovod's world is not what the launcher promised.
        """
        os.environ |= horovod_environment(
            settings,
            os.environ,
            has_gpu=torch.cuda.is_available(),
            on_several_hosts=launch.local_size < launch.size,
        )
        own = set(_THREADS.iterdir())
        hvd.init()
        if not torch.cuda.is_available():
            _step_back(set(_THREADS.iterdir()) - own)
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        if (self.rank, self.size) != (launch.rank, launch.size):
            raise JobError(
                f"{launch.launcher} started rank {launch.rank} of {launch.size}, but Horovod sees rank {self.rank} of "
                f"{self.size}: its MPI is not the launcher's (run `python -m hvd_r2n2.doctor`)"
            )
        is_mpi = hvd.mpi_enabled()
        controller = "MPI" if is_mpi else "Gloo"
        version = importlib.metadata.version("horovod")
        self.description = f"Horovod {version} over {controller}, {in_words(os.environ, is_mpi=is_mpi)}"
        self._watch = StallWatch(self.rank, self.size, _STALL_TIMEOUT_S, abort)

    @override
    def watch(self, timeout_s: float, run_folder: Path | None = None) -> None:
        self._watch.set(timeout_s, run_folder)

    @override
    def all_gather_object(self, value: T) -> list[T]:
        # The name is given since Horovod's default is the value's type, and ranks whose types differ would hang.
        with self._watch.waiting("gathering from all ranks"):
            return cast(list[T], hvd.allgather_object(value, name="all_gather_object"))

    @override
    def broadcast_object(self, value: T) -> T:
        with self._watch.waiting("a broadcast"):
            return cast(T, hvd.broadcast_object(value, root_rank=0, name="broadcast_object"))

    @override
    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._watch.waiting("a sum over all ranks"):
            return cast(torch.Tensor, hvd.allreduce(tensor, op=hvd.Sum, name="all_reduce_sum"))

    @override
    def broadcast_(self, tensor: torch.Tensor) -> None:
        with self._watch.waiting("a broadcast"):
            hvd.broadcast_(tensor, root_rank=0, name="broadcast")

    @override
    def average_async(self, tensor: torch.Tensor, name: str) -> Any:
        return hvd.allreduce_async_(tensor, op=hvd.Average, name=name)

    @override
    def wait(self, handle: Any) -> None:
        with self._watch.waiting("a mean over all ranks"):
            hvd.synchronize(handle)

    @override
    def is_done(self, handle: Any) -> bool:
        return bool(hvd.poll(handle))

    @override
    def barrier(self) -> None:
        with self._watch.waiting("a barrier"):
            hvd.barrier()

    @override
    def close(self) -> None:
        self.barrier()  # a rank that leaves early makes Horovod fail on the others
        self._watch.close()
        hvd.shutdown()


def _step_back(threads: Iterable[Path]) -> None:
    """Let threads, which mostly ask other ranks for work, give way to those that compute."""
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICENESS)
