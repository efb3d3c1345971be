"""Allreduces alone, as plain data: what is averaged, and what it was like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Burst:
    """Tensors that are handed over at once and averaged one after another."""

    count: int
    size: int
    """Bytes of each."""


@dataclass(frozen=True)
class BurstTime:
    """What a burst was like on one rank."""

    start_s: float
    """When this rank handed it over, on a clock that all processes of the machine share."""
    end_s: float
    """When it had all means."""
    busy_s: float
    """How long the same took while all ranks computed."""
    work: int
    """Products of matrices that this rank did meanwhile."""


@dataclass(frozen=True)
class BurstTimes:
    """What a round of bursts was like on one rank."""

    bursts: tuple[BurstTime, ...] = ()
    work_per_s: float = 0.0
    """Products a second while all ranks compute and none has anything to average."""
