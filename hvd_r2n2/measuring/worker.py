"""`python -m hvd_r2n2.measuring.worker SOCKET [RANK]`: one process of an arm, which does what it is told."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from hvd_r2n2.comm import Alone, Communicator, JobError, connect, launch_facts
from hvd_r2n2.common.memory import is_out_of_memory, keep_freed_memory, release_freed_memory
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.allreduces import AllreduceRunner
from hvd_r2n2.measuring.arms import UNDER_MPIRUN
from hvd_r2n2.measuring.inference import InferenceRunner
from hvd_r2n2.measuring.matrix import MatrixRunner
from hvd_r2n2.measuring.messages import (
    Done,
    Failure,
    Hello,
    Job,
    Order,
    Profiled,
    ProfiledStep,
    Ready,
    Release,
    Step,
)
from hvd_r2n2.measuring.mortal import die_first, die_with_parent
from hvd_r2n2.measuring.operations import profile_step
from hvd_r2n2.measuring.runner import DistributedRunner, EngineRunner, Runner

_PROFILED_STEPS = 3
"""Of which the fastest counts."""


def main() -> None:
    """Serve until the other end says that it is enough, or is gone."""
    die_with_parent()
    die_first()
    keep_freed_memory()
    rank = int(sys.argv[2]) if len(sys.argv) > 2 else launch_facts().rank
    with socket.socket(socket.AF_UNIX) as unix_socket:
        unix_socket.connect(sys.argv[1])
        connection = Connection(unix_socket.detach())
    with connection:
        connection.send(Hello(rank, os.getpid()))
        server = _Server(rank)
        try:
            while (order := _receive(connection)) is not None:
                connection.send(server.obey(order))
            server.close()
        except BrokenPipeError:
            pass
        except (ValueError, OSError, JobError) as error:
            connection.send(Failure(str(error)))
        except Exception as error:
            connection.send(
                Failure(f"not enough memory: {error}" if is_out_of_memory(error) else traceback.format_exc())
            )


def _receive(connection: Connection) -> Order:
    try:
        order: Order = connection.recv()
    except EOFError:
        return None
    return order


class _Server:
    """What a worker has between orders."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._communicator: Communicator | None = None
        self._runner: Runner | None = None
        self._batch: tuple[int, dict[str, Tensor]] = (0, {})

    def obey(self, order: Job | Step | ProfiledStep | Release) -> Ready | Done | Profiled:
        """Do what is asked."""
        if isinstance(order, Job):
            return self._prepare(order)
        if isinstance(order, Step):
            return self._step(order.num_views)
        if isinstance(order, ProfiledStep):
            return self._profile(order.num_views)
        release_freed_memory()
        return Ready()

    def close(self) -> None:
        """Leave other processes in good order."""
        if self._runner is not None:
            self._runner.close()
        if self._communicator is not None:
            self._communicator.close()

    def _prepare(self, job: Job) -> Ready:
        if self._runner is not None:
            self._runner.close()
        self._runner, self._batch = None, (0, {})
        os.sched_setaffinity(0, job.cores)
        if job.kind == "ddp":
            self._runner = DistributedRunner(job.config, self._rank, job.size, Path(job.store))
        else:
            if self._communicator is None:
                self._communicator = connect(job.config.horovod) if job.kind in UNDER_MPIRUN else Alone()
            kinds: dict[str, Callable[[Config, Communicator], Runner]]
            kinds = {
                "inference": InferenceRunner,
                "matrix": MatrixRunner,
                "allreduce": partial(AllreduceRunner, bursts=job.bursts),
            }
            self._runner = kinds.get(job.kind, EngineRunner)(job.config, self._communicator)
        return Ready(self._runner.placement.names, tuple(self._runner.notes))

    def _profile(self, num_views: int) -> Profiled:
        runner, inputs = self._ready_for(num_views)
        device = runner.placement.devices[0]
        profiles = []
        for _ in range(_PROFILED_STEPS):
            profiles.append(profile_step(lambda: runner.step(inputs), device))
            if device.type == "cpu":
                # What the profiler writes between the tensors leaves too little room for some of them, and they would
                # be given new memory, page by page: make enough of it used memory.
                torch.ones(profiles[-1].peak_bytes, dtype=torch.uint8)
        return Profiled(min(profiles, key=lambda profile: profile.step_s))

    def _ready_for(self, num_views: int) -> tuple[Runner, dict[str, Tensor]]:
        assert self._runner is not None, "a step before a job"
        if self._batch[0] != num_views:
            self._batch = (num_views, self._runner.batch(num_views))
        return self._runner, self._batch[1]

    def _step(self, num_views: int) -> Done:
        runner, inputs = self._ready_for(num_views)
        devices = [device for device in runner.placement.devices if device.type == "cuda"]
        for device in devices:
            torch.cuda.synchronize(device)
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        report = runner.step(inputs)
        for device in devices:
            torch.cuda.synchronize(device)
        end_s, end_cpu_s = time.perf_counter(), time.process_time()
        resident_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Done(
            start_s=start_s,
            end_s=end_s,
            cpu_s=end_cpu_s - start_cpu_s,
            communication_s=report.communication_s,
            memory=runner.memory(),
            resident_bytes=resident_bytes,
            taken_bytes=sum(map(torch.cuda.memory_reserved, set(devices))) if devices else resident_bytes,
            tasks=report.tasks,
            bytes_moved=report.bytes_moved,
            parts_s=runner.parts_s(),
            allreduces=runner.times(),
        )


if __name__ == "__main__":
    main()
