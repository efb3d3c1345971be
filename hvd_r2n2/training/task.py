"""What differs between the two kinds of networks, those that reconstruct and those that classify."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config
from hvd_r2n2.data.loader import Batch, BatchStream, training_batches
from hvd_r2n2.data.samples import Samples
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.checkpoint import Checkpoint

Report = Callable[[str], None]
Part = Literal["test", "validation"]
D = TypeVar("D", bound=Samples)


@dataclass(frozen=True)
class Validation:
    """How good a network is in the middle of its training."""

    score: float
    """The figure that the best checkpoint has the highest of."""
    figures: Mapping[str, float]
    """All figures, by the names they are recorded under."""
    text: str
    """The most important ones for people."""


class Findings(Protocol):
    """What the evaluation of a checkpoint has found."""

    def to_text(self) -> str:
        """Return the tables for the screen."""
        ...

    def to_json(self) -> str:
        """Return everything as JSON text; the same text on any number of ranks."""
        ...

    def to_csv(self) -> str:
        """Return the tables as CSV."""
        ...

    def summary(self) -> dict[str, object]:
        """Return the figures that a run's summary.json holds."""
        ...

    def headline(self) -> str:
        """Return the one line that ends a run."""
        ...


@dataclass(frozen=True)
class EvaluationOptions:
    """What may be chosen of an evaluation; only networks of 3D-R2N2 have views, a threshold and an F-score."""

    part: Part = "test"
    num_views: tuple[int, ...] | None = None
    """Numbers of views, one after the other; None takes that of the settings."""
    threshold: float | None = None
    """None chooses one on the validation part, for each number of views."""
    f_score: bool = False


class Task(ABC, Generic[D]):
    """What a network is trained for: its data, inputs, target and loss; how its results are measured and shown."""

    def __init__(self, config: Config) -> None:
        """Remember the settings, which must be resolved (`resolve`)."""
        self.config = config

    @abstractmethod
    def open_data(self, communicator: Communicator, report: Report) -> D:
        """Return the data, after making the built-in shapes or the cache where they are missing.

        Every rank calls it; on each host one rank does the work and the others wait for it at a file lock.

        Raises:
            DataProblems: (a ValueError) samples are missing or broken; all of them are named at once.
            ValueError: something else about the data or their settings is wrong.
        """

    def training_batches(
        self, dataset: D, communicator: Communicator, device: torch.device, start_step: int
    ) -> BatchStream:
        """Read this rank's share of the batches from `start_step` to the last step, for `device`."""
        train = self.config.train
        return training_batches(
            dataset,
            indices=dataset.train,
            batch_size=train.batch_size,
            rank=communicator.rank,
            size=communicator.size,
            seed=train.seed,
            min_views=self.config.view_counts[0],
            max_views=self.config.view_counts[-1],
            start_step=start_step,
            end_step=train.steps,
            config=self.config.data,
            masks=self._dropout_masks(),
            pin_for=device,
        )

    @abstractmethod
    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what the network and the loss read, by the names that the stages have for them, on the device.

        Pictures (and masks) are of `dtype`. In evaluation there are no masks.
        """

    @abstractmethod
    def loss_stage(self) -> Stage:
        """Return the stage `loss`: from `logits` and the target to the mean loss over the samples, a scalar."""

    @abstractmethod
    def validate(self, model: nn.Module, dataset: D, comm: Communicator, device: torch.device) -> Validation:
        """Measure the network, which is on `device`, on the validation part; every rank must call it."""

    @abstractmethod
    def evaluate(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        dataset: D,
        options: EvaluationOptions,
        comm: Communicator,
        device: torch.device,
        report: Report | None,
    ) -> Findings | None:
        """Measure a checkpoint, whose network is `model`; every rank must call it, and rank 0 gets the findings.

        With `report`, this rank's progress is shown.

        Raises:
            ValueError: what was asked cannot be measured on these data.
        """

    @abstractmethod
    def show(
        self,
        part: Part,
        model: nn.Module,
        dataset: D,
        device: torch.device,
        log: RunLog,
        step: int,
        findings: Findings | None = None,
    ) -> None:
        """Record pictures of some samples of a part and of what the network makes of them.

        One rank calls it, with its log; `log.pictures` says how many samples. `findings` are those of the same step.
        """

    def _dropout_masks(self) -> Mapping[str, int]:
        """Return the names of the network's dropout masks, and the number of features of each."""
        return {}
