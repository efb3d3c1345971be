"""Allreduces alone: how long bursts of them take, and how much of a processor's work they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.bursts import Burst, BurstTime, BurstTimes
from hvd_r2n2.measuring.runner import NO_REPORT, Runner
from hvd_r2n2.training.engine import StepReport
from hvd_r2n2.training.placement import place_rank

_FLOAT_BYTES = 4
_WORK_SIDE = 192
_IDLE_S = 0.5


class AllreduceRunner(Runner):
    """Steps of bursts: each on its own, and again while all ranks multiply matrices."""

    def __init__(self, config: Config, communicator: Communicator, bursts: Sequence[Burst]) -> None:
        """Make the tensors; every rank calls it."""
        super().__init__(place_rank(config, communicator, lambda text: None))
        self._communicator, self._bursts = communicator, bursts
        self._tensors = [[torch.zeros(burst.size // _FLOAT_BYTES) for _ in range(burst.count)] for burst in bursts]
        self._matrix = torch.zeros(_WORK_SIDE, _WORK_SIDE)
        self._times = BurstTimes()

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Average every burst, twice; every rank must call it."""
        self._communicator.barrier()
        start, work = time.perf_counter(), 0
        while (now := time.perf_counter()) < start + _IDLE_S:
            self._work()
            work += 1
        found = [self._burst(number) for number in range(len(self._bursts))]
        self._times = BurstTimes(tuple(found), work / (now - start))
        return NO_REPORT

    def times(self) -> BurstTimes:
        """Return what the last step was like."""
        return self._times

    def _burst(self, number: int) -> BurstTime:
        self._communicator.barrier()
        start = time.perf_counter()
        for handle in self._start(number):
            self._communicator.wait(handle)
        end = time.perf_counter()
        self._communicator.barrier()
        busy_start, work = time.perf_counter(), 0
        waiting = self._start(number)
        while not all(self._communicator.is_done(handle) for handle in waiting):
            self._work()
            work += 1
        busy_end = time.perf_counter()
        for handle in waiting:
            self._communicator.wait(handle)
        return BurstTime(start, end, busy_end - busy_start, work)

    def _start(self, number: int) -> list[Any]:
        tensors = self._tensors[number]
        return [self._communicator.average_async(t, f"{number}.{k}") for k, t in enumerate(tensors)]

    def _work(self) -> None:
        self._matrix @ self._matrix
