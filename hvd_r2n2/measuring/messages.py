"""What a benchmark and its worker processes say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import Kind
from hvd_r2n2.measuring.bursts import Burst, BurstTimes
from hvd_r2n2.measuring.operations import Profile
from hvd_r2n2.split import TaskTime


@dataclass(frozen=True)
class Job:
    """To a worker: make network and optimizer, in place of those before."""

    kind: Kind
    config: Config
    """The arm's settings."""
    size: int
    """Processes of the arm."""
    cores: tuple[int, ...]
    """Cores that this process may use."""
    store: str
    """File through which the ranks of a `ddp` arm find each other; another one for every job."""
    bursts: tuple[Burst, ...] = ()
    """What an `allreduce` arm averages."""


@dataclass(frozen=True)
class Step:
    """To a worker: take one training step with a batch of so many views."""

    num_views: int


@dataclass(frozen=True)
class ProfiledStep:
    """To a worker: take a few with every operation watched, which costs time of its own."""

    num_views: int


@dataclass(frozen=True)
class Release:
    """To a worker: give freed memory back to the system."""


@dataclass(frozen=True)
class Hello:
    """From a worker: it is there."""

    rank: int
    pid: int


@dataclass(frozen=True)
class Ready:
    """From a worker: the job is prepared, or memory is released."""

    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the engine says of its choices."""


@dataclass(frozen=True)
class Done:
    """From a worker: what a step was like."""

    start_s: float
    end_s: float
    """On a clock that all processes of the machine share."""
    cpu_s: float
    """Processor time of this process."""
    communication_s: float
    """Time from this rank's last gradient until all were averaged."""
    memory: tuple[DeviceMemory, ...]
    """Of each device."""
    resident_bytes: int
    """Most memory of the host that the process has had so far."""
    taken_bytes: int
    """Memory that it keeps from others: of its GPUs, if it has any, taken together as if all processes met there, or
    `resident_bytes`."""
    tasks: tuple[TaskTime, ...] = ()
    """Of a split."""
    bytes_moved: int = 0
    """Across a split."""
    parts_s: Mapping[str, float] = field(default_factory=dict)
    """By name: how long each part took of a step that has parts which are timed apart."""
    allreduces: BurstTimes = field(default_factory=BurstTimes)
    """Of a step of allreduces alone."""


@dataclass(frozen=True)
class Profiled:
    """From a worker: where the time of a step went."""

    profile: Profile


@dataclass(frozen=True)
class Failure:
    """From a worker: it cannot go on."""

    text: str


Order: TypeAlias = "Job | Step | ProfiledStep | Release | None"
"""To a worker; None ends it."""
