"""One optimizer step: micro-batches forward and backward, gradients averaged over ranks, weights moved."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from hvd_r2n2.comm import Communicator, GradientAverager, JobError
from hvd_r2n2.config import Config
from hvd_r2n2.data.loader import Batch, prepare_batch
from hvd_r2n2.models import ReconstructionNetwork, voxel_cross_entropy
from hvd_r2n2.training.optimizer import learning_rate, set_learning_rate
from hvd_r2n2.training.precision import autocast, weights_dtype


class NonFiniteError(JobError):
    """A loss or gradient that is not a number; the message names step, rank and samples."""


@dataclass(frozen=True)
class StepResult:
    """What one step did; the same on every rank but for the waiting."""

    loss: float
    """Mean over the global batch."""
    gradient_norm: float
    """2-norm of the whole averaged gradient, before clipping."""
    learning_rate: float
    """As used."""
    communication_s: float
    """Time this rank waited for gradients after its backward pass had ended."""


def share_of_batch(config: Config, num_ranks: int) -> int:
    """Return each rank's share of the global batch.

    Raises:
        ValueError: the batch does not divide evenly, with the nearest sizes that do.
    """
    batch_size, parts = config.train.batch_size, num_ranks * config.train.accumulation
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        nearest = f"{below} or {above}" if below else str(above)
        raise ValueError(
            f"train.batch_size: {batch_size} cannot be divided evenly over {num_ranks} rank(s) "
            f"x train.accumulation={config.train.accumulation} (use {nearest})"
        )
    return batch_size // num_ranks


class TrainingStep:
    """The model, its optimizer and the averaging of its gradients, one step at a time."""

    def __init__(
        self,
        config: Config,
        model: ReconstructionNetwork,
        optimizer: torch.optim.Optimizer,
        communicator: Communicator,
        device: torch.device,
    ) -> None:
        """Prepare; `model` is on `device` already.

        Raises:
            ValueError: the batch does not divide evenly over the ranks.
        """
        share_of_batch(config, communicator.size)
        self._config = config
        self._model = model
        self._optimizer = optimizer
        self._communicator = communicator
        self._device = device
        self._averager = GradientAverager(model.named_parameters(), communicator)

    def run(self, batch: Batch) -> StepResult:
        """Train on this rank's share of one global batch; every rank must call it.

        Raises:
            NonFiniteError: on every rank, if the loss or the gradient of any is not finite; no weight has moved.
        """
        loss, communication_s = self._gradients(batch)
        norm = torch.nn.utils.get_total_norm(
            [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        )
        mean_loss, gradient_norm = loss.item(), norm.item()
        if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
            self._explain_non_finite(batch, mean_loss, gradient_norm)
        if self._config.train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._model.parameters(), self._config.train.clip_norm, norm)
        rate = learning_rate(self._config, batch.step)
        set_learning_rate(self._optimizer, rate)
        self._optimizer.step()
        return StepResult(mean_loss, gradient_norm, rate, communication_s)

    def close(self) -> None:
        """Let go of the model's parameters."""
        self._averager.close()

    def _gradients(self, batch: Batch) -> tuple[torch.Tensor, float]:
        """Leave the averaged gradient on the parameters; return the mean loss and the seconds waited."""
        self._optimizer.zero_grad()
        images_VBCHW, occupancy_BDDD = self._prepare(batch)
        parts = self._config.train.accumulation
        micro_batches = list(zip(images_VBCHW.chunk(parts, dim=1), occupancy_BDDD.chunk(parts), strict=True))
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, (images, occupancy) in enumerate(micro_batches):
            loss = self._loss(images, occupancy) / parts
            total += loss.detach()
            if number == parts - 1:
                pending = self._communicator.average_async(total, "loss")
                self._averager.arm()
            loss.backward()  # type: ignore[no-untyped-call]
        communication_s = self._averager.finish()
        start = time.perf_counter()
        self._communicator.wait(pending)
        return total, communication_s + time.perf_counter() - start

    def _prepare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return prepare_batch(batch, self._device, weights_dtype(self._config.train.dtype))

    def _loss(self, images_VBCHW: torch.Tensor, occupancy_BDDD: torch.Tensor) -> torch.Tensor:
        with autocast(self._config.train.dtype, self._device):
            logits_B2DDD = self._model(images_VBCHW)
        return voxel_cross_entropy(logits_B2DDD, occupancy_BDDD)

    def _explain_non_finite(self, batch: Batch, loss: float, gradient_norm: float) -> None:
        """Try this rank's samples one by one, and raise on every rank with what all ranks found."""
        found = self._communicator.all_gather_object(self._non_finite_samples(batch))
        ranks = [f"rank {rank}: {', '.join(samples)}" for rank, samples in enumerate(found) if samples]
        where = "; ".join(ranks) if ranks else "no sample alone reproduces it"
        raise NonFiniteError(
            f"step {batch.step + 1}: the loss is {loss:g} and the gradient's norm {gradient_norm:g}. Not finite at "
            f"{where}. Training stops before the weights change; the last checkpoint is good. A lower "
            "optimizer.learning_rate, optimizer.warmup_steps or train.clip_norm may help."
        )

    def _non_finite_samples(self, batch: Batch) -> list[str]:
        images_VBCHW, occupancy_BDDD = self._prepare(batch)
        bad = []
        for number, sample in enumerate(batch.samples):
            self._optimizer.zero_grad()
            loss = self._loss(images_VBCHW[:, number : number + 1], occupancy_BDDD[number : number + 1])
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            if not torch.isfinite(loss) or not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
                bad.append(sample)
        return bad
