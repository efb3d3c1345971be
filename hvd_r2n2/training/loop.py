"""The training loop: step, record, evaluate, keep."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.config import Config
from hvd_r2n2.data.loader import Batch, move_ahead
from hvd_r2n2.data.samples import Samples
from hvd_r2n2.models import Network
from hvd_r2n2.telemetry import Baseline, RunLog
from hvd_r2n2.training.checkpoint import LinksError, TrainingState, write_checkpoint
from hvd_r2n2.training.consistency import check_equal, parameter_digest
from hvd_r2n2.training.engine import Engine, StepReport
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.recorder import Recorder
from hvd_r2n2.training.spike_guard import SpikeHistory
from hvd_r2n2.training.start_times import StartTimes
from hvd_r2n2.training.step import TrainingStep
from hvd_r2n2.training.stop_request import StopRequest
from hvd_r2n2.training.task import Task


@dataclass(frozen=True)
class Run:
    """Everything that one run works with; the same on every rank but for the device and the communicator's rank."""

    config: Config
    """Its settings."""
    folder: Path
    """Its run directory."""
    communicator: Communicator
    """The ranks."""
    placement: Placement
    """This rank's devices."""
    task: Task[Any]
    """What the network is trained for."""
    dataset: Samples
    """All samples."""
    model: Network
    """The network, on the device."""
    engine: Engine
    """What trains it."""
    baseline: Baseline | None
    """What one device takes, if that is to be compared."""
    log: RunLog
    """Where figures go."""
    stop: StopRequest
    """Whether this rank was asked to stop."""
    times: StartTimes
    """Of the start, up to the first step."""

    @property
    def device(self) -> torch.device:
        """The first device, which prepares batches and evaluates."""
        return self.placement.devices[0]


def train_steps(run: Run, state: TrainingState) -> tuple[TrainingState, bool]:
    """Train from `state` to the last step, or to that in which any rank was asked to stop; every rank must call it.

    Returns where it ended, which has a checkpoint, and whether it was asked to stop.

    Raises:
        JobError: the loss or a gradient is not finite, or the loss has jumped (train.spike_factor), or the ranks'
            parameters are no longer equal.
        OSError: the last checkpoint could not be written.
    """
    return _Loop(run, state).run()


class _Loop:
    def __init__(self, run: Run, state: TrainingState) -> None:
        self._run = run
        self._state = state
        self._config = run.config
        self._recorder = Recorder(
            run.config, run.communicator, run.engine, run.placement, run.log, run.folder, run.baseline
        )
        # Those before this start count on rank 0, so that all ranks' together are those of the run.
        self._num_replaced = state.num_replaced if run.communicator.is_root else 0
        self._is_started = False
        self._started = time.perf_counter() - state.train_seconds

    def run(self) -> tuple[TrainingState, bool]:
        run, config = self._run, self._config
        step = TrainingStep(config, run.task, run.engine, run.device, self._state.spikes)
        batches = run.task.training_batches(run.dataset, run.communicator, run.device, self._state.step)
        run.model.train()
        with batches:
            start = time.perf_counter()
            for batch in move_ahead(batches, run.device):
                result = step.run(batch, lambda: run.stop.has_come)
                self._tell_start()
                self._tell(batch, result, step.guard.history)
                num_views, step_s = batch.num_images // len(batch.samples), time.perf_counter() - start
                self._recorder.step(batch.step + 1, result, step_s, batches.wait_s, num_views, self._num_replaced)
                self._after_step(batch.step + 1, is_stopping=result.is_asked_to_stop)
                if result.is_asked_to_stop:
                    return self._state, True
                start = time.perf_counter()
        return self._state, False

    def _tell_start(self) -> None:
        """Say after the first step what the time until then went to."""
        if not self._is_started:
            self._is_started = True
            self._run.times.mark("first step")
            self._run.log.line(self._run.times.to_text())

    def _tell(self, batch: Batch, result: StepReport, spikes: SpikeHistory) -> None:
        """Take over what the guard goes by, and warn of a step that was skipped and of samples that were replaced."""
        self._state = replace(self._state, spikes=spikes)
        if result.is_skipped:
            self._run.log.line(
                f"warning: step {batch.step + 1}: the loss {result.loss:.4g} is a spike (train.spike_factor); its "
                f"weights are not moved ({spikes.skipped} such steps so far)"
            )
        self._num_replaced += len(batch.replaced)
        for text in batch.replaced:  # on the rank that met it
            say(f"warning: step {batch.step + 1}: {text}")

    def _after_step(self, step: int, *, is_stopping: bool) -> None:
        config, before = self._config, self._state
        self._state = replace(
            self._state,
            step=step,
            samples_seen=step * config.train.batch_size,
            train_seconds=time.perf_counter() - self._started,
        )
        is_last = step == config.train.steps
        if step % config.train.check_every_steps == 0 or is_last:
            self._run.engine.write_back()
            check_equal(self._run.communicator, f"step {step}: parameters", parameter_digest(self._run.model))
        is_best = False
        if len(self._run.dataset.validation) and (step % config.evaluation.every_steps == 0 or is_last):
            is_best = self._validate(step)
        if is_best or is_last or is_stopping or step % config.checkpoint.every_steps == 0:
            # One for the signal is the last of this start, which others rely on.
            self._keep(before, is_last=is_last or is_stopping)

    def _validate(self, step: int) -> bool:
        """Evaluate on the validation part; return whether it is the best so far."""
        run = self._run
        start = time.perf_counter()
        run.engine.write_back()
        validation = run.task.validate(run.model, run.dataset, run.communicator, run.device)
        run.log.scalars(step, validation.figures)
        run.log.line(f"step {step}  validation {validation.text}, {time.perf_counter() - start:.1f} s")
        if run.communicator.is_root and self._config.log.pictures:
            run.task.show("validation", run.model, run.dataset, run.device, run.log, step)
        best = self._state.best_score
        if best is not None and validation.score <= best:
            return False
        self._state = replace(self._state, best_score=validation.score, best_step=step)
        return True

    def _keep(self, before: TrainingState, *, is_last: bool) -> None:
        """Write a checkpoint; one that cannot be written is an error only at the end, since the next may succeed."""
        run, failure, is_written = self._run, None, True
        num_replaced = sum(run.communicator.all_gather_object(self._num_replaced))
        self._state = replace(self._state, num_replaced=num_replaced)
        if run.communicator.is_root:
            run.engine.write_back()
            tensors = run.engine.optimizer_tensors()
            try:
                folder = run.folder / "checkpoints"
                write_checkpoint(folder, run.model, tensors, self._state, self._config, run.log.line)
            except OSError as error:
                failure, is_written = str(error), isinstance(error, LinksError)
        failure, is_written = run.communicator.broadcast_object((failure, is_written))
        if failure is None:
            return
        if is_last:
            raise OSError(failure)
        run.log.line(f"warning: {failure}; training goes on, and the next checkpoint is tried")
        if not is_written:
            # What is not on disk is not the best: another one may still become it.
            self._state = replace(self._state, best_score=before.best_score, best_step=before.best_step)
