"""What the steps since the last line come to, on the console, in metrics.jsonl and in TensorBoard."""

from __future__ import annotations

import statistics
from pathlib import Path

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config
from hvd_r2n2.split import busy_shares
from hvd_r2n2.telemetry import (
    Baseline,
    Projection,
    RunLog,
    StepTimes,
    memory_bytes,
    over_ranks,
    write_trace,
)
from hvd_r2n2.training.engine import Engine, StepReport
from hvd_r2n2.training.placement import Placement


class Recorder:
    """Gathers figures step by step; every `log.every_steps` all ranks put theirs together and rank 0 records them."""

    def __init__(
        self,
        config: Config,
        communicator: Communicator,
        engine: Engine,
        placement: Placement,
        log: RunLog,
        folder: Path,
        baseline: Baseline | None,
    ) -> None:
        """Start with no steps; `baseline` gives what one device takes, if that is to be compared."""
        self._config, self._communicator, self._engine = config, communicator, engine
        self._placement, self._log, self._folder, self._baseline = placement, log, folder, baseline
        self._projection = Projection(config.view_counts, config.train.steps)
        self._start_anew()

    def step(
        self, step: int, report: StepReport, step_s: float, wait_s: float, num_views: int, num_replaced: int
    ) -> None:
        """Take in step number `step` (from 1), and show how far the run is; every rank must call it.

        Over the ranks, `num_replaced` adds up to the samples of the run that have been replaced so far.
        """
        settings = self._config.log
        self._times.add(step_s, wait_s, report.communication_s, self._config.train.batch_size, num_views)
        if report.tasks:
            self._busy_shares.append(busy_shares(report.tasks, len(self._placement.devices)))
            self._bytes_moved.append(report.bytes_moved)
        told = self._projection.add(step, num_views, step_s)
        if told is not None:
            self._log.line(told)
        self._losses.append(report.loss)
        if self._baseline is not None:
            self._expected_s += self._baseline.expected_s(num_views)
        if step == settings.trace_step and self._communicator.is_root:
            self._trace(step, report)
        if step % settings.every_steps and step != self._config.train.steps and not report.is_asked_to_stop:
            self._log.step(step, f"loss {report.loss:.4f}  lr {report.learning_rate:.2e}", is_logged=False)
            return
        loss = statistics.fmean(self._losses)
        figures = self._figures(num_replaced)
        self._log.scalars(
            step,
            {
                "train/loss": loss,
                "train/gradient_norm": report.gradient_norm,
                "train/learning_rate": report.learning_rate,
                **figures,
            },
        )
        self._log.step(step, f"loss {loss:.4f}  lr {report.learning_rate:.2e}  {_text(figures)}", is_logged=True)
        self._start_anew()

    def _start_anew(self) -> None:
        self._times, self._losses, self._expected_s = StepTimes(), list[float](), 0.0
        self._busy_shares, self._bytes_moved = list[tuple[float, ...]](), list[int]()

    def _trace(self, step: int, report: StepReport) -> None:
        if not report.tasks:
            self._log.line(f"warning: step {step} (log.trace_step) ran on one device, there are no tasks to trace")
            return
        path = self._folder / f"trace-step-{step:08d}.json"
        with self._log.going_on(path.name):
            write_trace(path, report.tasks, self._placement.names)

    def _figures(self, num_replaced: int) -> dict[str, float]:
        """Put the figures of all ranks together; every rank must call it."""
        own = self._times.figures() | self._split_figures()
        own["memory/peak_bytes"] = float(memory_bytes(self._placement.devices[0]))
        if self._config.data.damaged_samples == "replace":
            own["data/replaced_total"] = float(num_replaced)
        for number, memory in enumerate(self._engine.memory()):
            own[f"memory/device_{number}_peak_bytes"] = float(memory.peak_bytes)
        figures = over_ranks(self._communicator.all_gather_object(own))
        plan = self._engine.plan
        if plan is not None and plan.bubble_share is not None:
            figures["split/bubble_share_predicted"] = plan.bubble_share
        if self._baseline is not None:
            figures["speed/baseline_images_per_s"] = self._times.num_images / self._expected_s
            figures["speed/speedup"] = figures["speed/images_per_s"] / figures["speed/baseline_images_per_s"]
            num_devices = self._communicator.size * len(self._placement.devices)
            figures["speed/parallel_efficiency"] = figures["speed/speedup"] / num_devices
        return figures

    def _split_figures(self) -> dict[str, float]:
        """Return means over the steps of how busy this rank's devices were; nothing without a split."""
        if not self._busy_shares:
            return {}
        busy = [statistics.fmean(shares) for shares in zip(*self._busy_shares, strict=True)]
        found = {f"split/device_{number}_busy_share": share for number, share in enumerate(busy)}
        found["split/bubble_share"] = 1 - statistics.fmean(busy)
        found["split/moved_bytes"] = statistics.fmean(self._bytes_moved)
        return found


def _text(figures: dict[str, float]) -> str:
    """Say in one line what matters of the figures."""
    words = [f"{figures['speed/images_per_s']:.1f} images/s"]
    if "speed/speedup" in figures:
        words.append(
            f"{figures['speed/speedup']:.2f}x of one device ({figures['speed/parallel_efficiency']:.0%} efficiency)"
        )
    words.append(f"step {figures['time/step_median_s']:.2f} s")
    words.append(f"data {figures['time/data_share']:.0%}")
    words.append(f"communication {figures['time/communication_share']:.0%}")
    if "split/bubble_share" in figures:
        words.append(f"bubble {figures['split/bubble_share']:.0%}")
    return "  ".join(words)
