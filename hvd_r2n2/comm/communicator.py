"""What ranks can say to each other, and the twin of it for a process that is alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import torch
from typing_extensions import override

T = TypeVar("T")


class JobError(Exception):
    """The job cannot go on, on any rank: the ranks are not what they should be, or training has failed."""


class Communicator(ABC):
    """Collective operations over all ranks; each must be called by every rank, in the same order."""

    rank: int
    """Number of this rank, from 0."""
    size: int
    """Number of ranks."""
    local_rank: int
    """Number of this rank on its host."""
    local_size: int
    """Number of ranks on this host."""
    description: str
    """What carries the operations, for people."""

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0

    @abstractmethod
    def all_gather_object(self, value: T) -> list[T]:
        """Return every rank's `value` in rank order, on every rank."""

    @abstractmethod
    def broadcast_object(self, value: T) -> T:
        """Return the `value` of rank 0 on every rank."""

    @abstractmethod
    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's `tensor`, a new tensor of the same shape, type and device."""

    @abstractmethod
    def broadcast_(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by the one of rank 0."""

    @abstractmethod
    def average_async(self, tensor: torch.Tensor, name: str) -> Any:
        """Start replacing `tensor` by its mean over all ranks; ranks may start different names in any order."""

    @abstractmethod
    def wait(self, handle: Any) -> None:
        """Wait for what `average_async` started."""

    @abstractmethod
    def is_done(self, handle: Any) -> bool:
        """Say whether `wait` would return at once."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when every rank has come here."""

    @abstractmethod
    def watch(self, timeout_s: float, run_folder: Path | None = None) -> None:
        """End the job, from now on, when this rank has waited `timeout_s` for the others.

        With a run directory that all ranks share, the rank that is missing is named.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the job in good order; nothing may be called afterwards."""


class Alone(Communicator):
    """The only rank there is: every operation is the identity, and nothing is copied or sent."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def __init__(self, description: str = "alone") -> None:
        self.description = description

    @override
    def all_gather_object(self, value: T) -> list[T]:
        return [value]

    @override
    def broadcast_object(self, value: T) -> T:
        return value

    @override
    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @override
    def broadcast_(self, tensor: torch.Tensor) -> None:
        return None

    @override
    def average_async(self, tensor: torch.Tensor, name: str) -> Any:
        return None

    @override
    def wait(self, handle: Any) -> None:
        return None

    @override
    def is_done(self, handle: Any) -> bool:
        return True

    @override
    def barrier(self) -> None:
        return None

    @override
    def watch(self, timeout_s: float, run_folder: Path | None = None) -> None:
        return None

    @override
    def close(self) -> None:
        return None
