"""The training loop: step, record, evaluate, keep."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.data.loader import move_ahead, training_batches
from hvd_r2n2.models import ReconstructionNetwork
from hvd_r2n2.telemetry import RunLog, StepTimes, memory_bytes, over_ranks
from hvd_r2n2.training.checkpoint import TrainingState, write_checkpoint
from hvd_r2n2.training.consistency import check_equal, parameter_digest
from hvd_r2n2.training.evaluation import EvaluationResult, evaluate
from hvd_r2n2.training.showcase import show_samples
from hvd_r2n2.training.step import StepResult, TrainingStep


@dataclass(frozen=True)
class Run:
    """Everything that one run works with; the same on every rank but for the device and the communicator's rank."""

    config: Config
    """Its settings."""
    folder: Path
    """Its run directory."""
    communicator: Communicator
    """The ranks."""
    device: torch.device
    """This rank's device."""
    dataset: Dataset
    """All samples."""
    model: ReconstructionNetwork
    """The network, on the device."""
    optimizer: torch.optim.Optimizer
    """Its optimizer."""
    log: RunLog
    """Where figures go."""


def train_steps(run: Run, state: TrainingState) -> TrainingState:
    """Train from `state` to the last step; every rank must call it. Returns where it ended.

    Raises:
        NonFiniteError: the loss or a gradient is not finite.
        JobError: the ranks' parameters are no longer equal.
        OSError: a checkpoint could not be written.
    """
    return _Loop(run, state).run()


class _Loop:
    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run = run
        self._state = state
        self._config = run.config
        self._times = StepTimes()
        self._losses: list[float] = []
        self._started = time.perf_counter() - state.train_seconds

    def run(self) -> TrainingState:
        run, config, train = self._run, self._config, self._config.train
        step = TrainingStep(config, run.model, run.optimizer, run.communicator, run.device)
        batches = training_batches(
            run.dataset,
            indices=run.dataset.train,
            batch_size=train.batch_size,
            rank=run.communicator.rank,
            size=run.communicator.size,
            seed=train.seed,
            min_views=train.min_views,
            max_views=train.max_views,
            start_step=self._state.step,
            end_step=train.steps,
            config=config.data,
            pin_for=run.device,
        )
        run.model.train()
        try:
            with batches:
                start = time.perf_counter()
                for batch in move_ahead(batches, run.device):
                    result = step.run(batch)
                    num_views, step_s = batch.images_VBHWC.shape[0], time.perf_counter() - start
                    self._times.add(step_s, batches.wait_s, result.communication_s, train.batch_size, num_views)
                    self._after_step(batch.step + 1, result)
                    start = time.perf_counter()
        finally:
            step.close()
        return self._state

    def _after_step(self, step: int, result: StepResult) -> None:
        config = self._config
        self._state = replace(
            self._state,
            step=step,
            samples_seen=step * config.train.batch_size,
            train_seconds=time.perf_counter() - self._started,
        )
        self._losses.append(result.loss)
        is_last = step == config.train.steps
        self._record(step, result, is_logged=step % config.log.every_steps == 0 or is_last)
        if step % config.train.check_every_steps == 0 or is_last:
            check_equal(self._run.communicator, f"step {step}: parameters", parameter_digest(self._run.model))
        is_best = False
        if len(self._run.dataset.validation) and (step % config.evaluation.every_steps == 0 or is_last):
            is_best = self._validate(step)
        if is_best or is_last or step % config.checkpoint.every_steps == 0:
            self._keep()

    def _record(self, step: int, result: StepResult, is_logged: bool) -> None:
        run = self._run
        text = f"loss {result.loss:.4f}  lr {result.learning_rate:.2e}"
        if is_logged:
            own = self._times.figures() | {"memory/peak_bytes": float(memory_bytes(run.device))}
            figures = over_ranks(run.communicator.all_gather_object(own))
            loss = sum(self._losses) / len(self._losses)
            run.log.scalars(
                step,
                {
                    "train/loss": loss,
                    "train/gradient_norm": result.gradient_norm,
                    "train/learning_rate": result.learning_rate,
                    **figures,
                },
            )
            text = (
                f"loss {loss:.4f}  lr {result.learning_rate:.2e}  {figures['speed/images_per_s']:.1f} images/s  "
                f"step {figures['time/step_median_s']:.2f} s  data {figures['time/data_share']:.0%}  "
                f"communication {figures['time/communication_share']:.0%}"
            )
            self._times, self._losses = StepTimes(), []
        run.log.step(step, text, is_logged)

    def _validate(self, step: int) -> bool:
        """Evaluate on the validation part; return whether it is the best so far."""
        run = self._run
        start = time.perf_counter()
        settings = self._config.evaluation
        result = evaluate(
            run.model,
            run.dataset,
            run.dataset.validation,
            num_views=settings.views,
            thresholds=(settings.threshold,),
            comm=run.communicator,
            device=run.device,
            dtype=self._config.train.dtype,
            batch_size=settings.batch_size,
        )
        run.log.scalars(step, _validation_figures(result))
        samples, categories = result.mean_of_samples(), result.mean_of_categories()
        run.log.line(
            f"step {step}  validation ({samples.num_samples} samples, {result.num_views} views): IoU "
            f"{samples.iou[0]:.4f} (mean of samples), {categories.iou[0]:.4f} (mean of categories), "
            f"{time.perf_counter() - start:.1f} s"
        )
        if run.communicator.is_root and self._config.log.pictures:
            part, threshold = run.dataset.validation, settings.threshold
            show_samples("validation", run.model, run.dataset, part, run.config, run.device, run.log, step, threshold)
        best = self._state.best_iou
        if best is not None and samples.iou[0] <= best:
            return False
        self._state = replace(self._state, best_iou=samples.iou[0], best_step=step)
        return True

    def _keep(self) -> None:
        run = self._run
        if run.communicator.is_root:
            write_checkpoint(run.folder / "checkpoints", run.model, run.optimizer, self._state, self._config)
        run.communicator.barrier()


def _validation_figures(result: EvaluationResult) -> dict[str, float]:
    """Return the figures of a validation by the names they are recorded under."""
    samples, by_category = result.mean_of_samples(), result.by_category()
    return {
        "validation/iou_mean_of_samples": samples.iou[0],
        "validation/iou_mean_of_categories": result.mean_of_categories().iou[0],
        "validation/cross_entropy": samples.cross_entropy,
        "validation/average_precision": samples.average_precision,
        **{f"validation_iou/{category}": means.iou[0] for category, means in by_category.items()},
    }
