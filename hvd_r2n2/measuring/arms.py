"""The arms of a benchmark: what each one computes, with how many processes, as plain data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hvd_r2n2.common.names import known_hint
from hvd_r2n2.config import Config, with_overrides
from hvd_r2n2.measuring.bursts import Burst
from hvd_r2n2.measuring.networks import MEMORY

Kind = Literal["engine", "copies", "ddp", "horovod", "inference", "matrix", "allreduce"]

UNDER_MPIRUN: tuple[Kind, ...] = ("horovod", "allreduce")
"""Kinds whose processes mpirun starts."""

ONE_DEVICE = "one-device"
BOUND = "bound"


@dataclass(frozen=True)
class ArmSpec:
    """One of the things that are compared."""

    name: str
    """Name in tables."""
    kind: Kind = "engine"
    """`engine`: one process trains as `hvd_r2n2.train` does. `copies`: each process trains on its own, all at once.
    `ddp`: ranks of torch's DistributedDataParallel. `horovod`: ranks under mpirun, as `hvd_r2n2.train` has them.
    `inference`: one process runs the network forward alone. `matrix`: one process multiplies matrices. `allreduce`:
    ranks under mpirun average tensors and train nothing."""
    processes: int = 1
    """How many; each but an `engine` has one device."""
    overrides: tuple[str, ...] = ()
    """What differs from the benchmark's settings: section.key=value."""
    network: str = MEMORY
    """How ranks under mpirun talk: see `networks.py`."""
    bursts: tuple[Burst, ...] = ()
    """What an `allreduce` arm averages."""

    def __post_init__(self) -> None:
        if "/" in self.name:
            raise ValueError(f"--arm {self.name}: files are named after arms (use a name without /)")

    @property
    def is_under_mpirun(self) -> bool:
        """Whether mpirun starts its processes."""
        return self.kind in UNDER_MPIRUN

    def config(self, config: Config) -> Config:
        """Return the arm's settings.

        Raises:
            ValueError: they are not possible.
        """
        return with_overrides(config, self.overrides, f"arm {self.name}")

    def with_overrides(self, *overrides: str) -> ArmSpec:
        """Return the arm with more overrides."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def with_accumulation(self, count: int) -> ArmSpec:
        """Return the arm with so many micro-batches."""
        return self.with_overrides(f"train.accumulation={count}")

    def samples(self, config: Config) -> int:
        """Return the samples that all processes together take in a step."""
        own = self.config(config)
        if self.kind == "inference":
            return own.evaluation.batch_size
        return own.train.batch_size * (self.processes if self.kind == "copies" else 1)


_SPLIT_ARMS = (
    ArmSpec(ONE_DEVICE),
    ArmSpec(BOUND, kind="copies", processes=2),
    ArmSpec("naive", overrides=("split.strategy=pipeline", "split.micro_batches=1", "split.schedule=fill-drain")),
    ArmSpec("pipeline", overrides=("split.strategy=pipeline",)),
    ArmSpec("kernel", overrides=("split.strategy=kernel",)),
    ArmSpec("spatial", overrides=("split.strategy=spatial",)),
    ArmSpec("ddp", kind="ddp", processes=2),
)


def split_arms(
    config: Config, names: Sequence[str] | None = None, changes: Sequence[Sequence[str]] = ()
) -> tuple[ArmSpec, ...]:
    """Return the arms of `benchmark split`.

    Args:
        config: the benchmark's settings, for one device.
        names: which of the usual ones; None for all that go with the network.
        changes: NAME SECTION.KEY=VALUE …: settings of one of the usual arms, or a new arm.

    Raises:
        ValueError: an unknown name, or settings that are not possible.
    """
    usual = {arm.name: arm for arm in _SPLIT_ARMS if arm.name != "spatial" or not config.model.classifies}
    check_names(names, usual)
    arms = {name: usual[name] for name in (names or usual)}
    for name, *overrides in changes:
        if not overrides:
            raise ValueError(f"--arm {name}: write NAME SECTION.KEY=VALUE …, such as {name} split.micro_batches=8")
        if name in usual:
            arms[name] = usual[name].with_overrides(*overrides)
        elif any(override.startswith("split.strategy=") for override in overrides):
            arms[name] = ArmSpec(name, overrides=tuple(overrides))
        else:
            raise ValueError(f"--arm {name}: a new arm needs split.strategy=… (the usual ones: {', '.join(usual)})")
    for arm in arms.values():
        arm.config(config)
    return tuple(arms.values())


def check_names(names: Sequence[str] | None, known: Collection[str]) -> None:
    """Raise a ValueError that names the nearest known one unless all names of arms are known."""
    for name in names or ():
        if name not in known:
            raise ValueError(f"--arms: {name} is not known{known_hint(name, known)}")


def rank_arms(config: Config) -> tuple[ArmSpec, ...]:
    """Return the arms of `benchmark ranks`.

    weak: each of 2 ranks has the batch that one rank has; strong: they share it.
    """
    weak = f"train.batch_size={2 * config.train.batch_size}"
    return (
        ArmSpec(ONE_DEVICE),
        ArmSpec(BOUND, kind="copies", processes=2),
        ArmSpec("ddp-1", kind="ddp", processes=1),
        ArmSpec("horovod-2-weak", kind="horovod", processes=2, overrides=(weak,)),
        ArmSpec("ddp-2-weak", kind="ddp", processes=2, overrides=(weak,)),
        ArmSpec("horovod-2-strong", kind="horovod", processes=2),
        ArmSpec("ddp-2-strong", kind="ddp", processes=2),
    )


def possible_accumulations(num_samples: int) -> list[int]:
    """Return the numbers of micro-batches, 16 to 1, that the samples of one process can be cut into evenly."""
    return [count for count in (16, 8, 4, 2, 1) if num_samples % count == 0]
