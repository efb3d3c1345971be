"""One optimizer step of a task: a batch prepared and handed to the engine, and what is said when it fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hvd_r2n2.config import Config
from hvd_r2n2.data.loader import Batch
from hvd_r2n2.training.engine import Engine, NotFiniteError, StepReport
from hvd_r2n2.training.forward import cut_samples, mean_loss
from hvd_r2n2.training.optimizer import learning_rate
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.spike_guard import LossSpikeError, SpikeGuard, SpikeHistory
from hvd_r2n2.training.task import Task


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
    """A task's batches, one at a time, on an engine."""

    def __init__(
        self,
        config: Config,
        task: Task[Any],
        engine: Engine,
        device: torch.device,
        spikes: SpikeHistory = SpikeHistory(),  # noqa: B008 (it cannot change)
    ) -> None:
        """Prepare.

        Args:
            config: the settings.
            task: what a batch means.
            engine: what computes gradients and moves weights.
            device: the first of the rank's devices, where batches are prepared.
            spikes: what the loss is judged by.
        """
        self._config, self._task, self._engine, self._device = config, task, engine, device
        self.guard = SpikeGuard(config.train, spikes)

    def run(self, batch: Batch, asked_to_stop: Callable[[], bool] = lambda: False) -> StepReport:
        """Train on this rank's share of one global batch; every rank must call it.

        The report says whether any rank was `asked_to_stop`.

        Raises:
            NotFiniteError: on every rank, if the loss or the gradient of any is not finite; no weight has moved. Names
                step, ranks and samples.
            LossSpikeError: on every rank, if the loss has jumped and training is to stop then.
        """
        try:
            rate = learning_rate(self._config, batch.step)
            return self._engine.step(self._prepare(batch), rate, self.guard.admits, asked_to_stop=asked_to_stop)
        except LossSpikeError as error:
            raise LossSpikeError(f"step {batch.step + 1}: {error}") from None
        except NotFiniteError as error:
            found = self._engine.communicator.all_gather_object(self._non_finite_samples(batch))
            ranks = [f"rank {rank}: {', '.join(samples)}" for rank, samples in enumerate(found) if samples]
            where = "; ".join(ranks) if ranks else "no sample alone reproduces it"
            raise NotFiniteError(
                f"step {batch.step + 1}: {error}. Not finite at {where}. Training stops before the weights change; the "
                "last checkpoint is good. A lower optimizer.learning_rate, optimizer.warmup_steps or train.clip_norm "
                "may help."
            ) from None

    def _prepare(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._task.prepare(batch, self._device, weights_dtype(self._config.train.dtype))

    def _non_finite_samples(self, batch: Batch) -> list[str]:
        """Try this rank's samples one by one, on one device."""
        self._engine.write_back()
        model = self._engine.model
        stages, parameters = (*model.stages(), self._task.loss_stage()), list(model.parameters())
        bad = []
        for sample, one in zip(
            batch.samples, cut_samples(self._prepare(batch), stages, len(batch.samples)), strict=True
        ):
            loss = mean_loss(self._config, stages, one)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                bad.append(sample)
        return bad
