"""`benchmark baseline`: the steps of one device, in its best micro-batches, for every number of views."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ONE_DEVICE, ArmSpec, possible_accumulations
from hvd_r2n2.measuring.comparison import Request, find_disturbed, without_split
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.report import heading, now
from hvd_r2n2.measuring.result import ArmResult, step_s
from hvd_r2n2.measuring.rounds import choose_accumulation
from hvd_r2n2.measuring.team import Team
from hvd_r2n2.telemetry.baseline import Baseline, BaselineError, load_baseline, settings_of, write_baseline
from hvd_r2n2.training.placement import devices_per_rank


def ensure_baseline(path: Path, config: Config, request: Request) -> None:
    """Measure one device into a file, unless it holds a baseline that fits one rank with these settings already.

    What is wrong with one that is replaced is reported.

    Raises:
        ValueError: the settings are not possible.
        JobError: the process that measures has failed.
        OSError: the file is there and cannot be read, or it cannot be written.
    """
    machine = _machine(config, num_ranks=1)
    try:
        load_baseline(path, config, torch.device(machine.device_type), machine.threads)
        return
    except FileNotFoundError:
        pass
    except BaselineError as error:
        request.report(f"log.baseline: {error.reason}; it is measured again")
    write_baseline(path, measure_baseline(config, request))


def measure_baseline(config: Config, request: Request, num_ranks: int = 1) -> Baseline:
    """Measure one device on the steps that `config` trains with, split or not.

    Args:
        config: resolved settings.
        request: rounds are measured steps of each number of views; these come in turn.
        num_ranks: ranks of a host in training: the device has as many threads as each of theirs.

    Raises:
        ValueError: the settings are not possible.
        JobError: the process that measures has failed.
    """
    machine = _machine(config, num_ranks)
    config, _ = without_split(config)
    most = config.view_counts[-1]
    request.report(heading(config, machine, most))
    arm, trials = ArmSpec(ONE_DEVICE), {}
    if request.accumulation is None:
        counts = possible_accumulations(config.train.batch_size)
        arm, tried = choose_accumulation(arm, counts, config, machine, most, request.report)
        trials = dict(tried)
    else:
        arm = arm.with_accumulation(request.accumulation)
    steps: dict[int, list[tuple[Done, ...]]] = {num_views: [] for num_views in config.view_counts}
    with tempfile.TemporaryDirectory(prefix="hvd_r2n2-") as folder, Team(arm, machine, Path(folder)) as team:
        ready = team.prepare(arm, config)
        for number in range(request.warmup + request.rounds):
            for num_views, taken in steps.items():
                step = tuple(team.step(num_views))
                if number >= request.warmup:
                    taken.append(step)
    every = tuple(step for taken in steps.values() for step in taken)
    find_disturbed([ArmResult(arm, ready.devices, ready.notes, arm.samples(config), every)], machine, request.report)
    baseline = Baseline(
        device=machine.device_type,
        threads=None if machine.gpus else machine.threads,
        accumulation=arm.config(config).train.accumulation,
        times_s={num_views: tuple(map(step_s, taken)) for num_views, taken in steps.items()},
        settings=settings_of(config),
        hardware=find_hardware(),
        versions=find_versions(),
        trials=trials,
        date=now(),
        command=request.command,
    )
    for num_views, times in baseline.times_s.items():
        spread = Spread.of(times)
        request.report(
            f"{num_views} view(s): {spread.median:.3f} s a step ({spread.low:.3f} to {spread.high:.3f}), "
            f"{baseline.images_per_s(num_views):.2f} images/s"
        )
    return baseline


def _machine(config: Config, num_ranks: int) -> Machine:
    """Return a machine whose devices have as many threads as those of ranks with these settings have in training."""
    return Machine.find(config, num_ranks * devices_per_rank(config))
