"""Decides how a rank's network is split: as the settings say, or as measurements on this machine find best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config, SplitConfig, to_mapping
from hvd_r2n2.models import Network
from hvd_r2n2.split import STRATEGIES, Plan
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.planner import ONE_DEVICE, Job, Wanted, check_devices, rank
from hvd_r2n2.training.machine_costs import Effort, measure_costs
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.plan_report import chosen_config, describe, explain, in_words

Report = Callable[[str], None]

AT_START = Effort(num_runs=2, seconds_a_run=2.0, data_parallel=False)
"""For a choice at the start of a run."""
ONLY_MEMORY = Effort(num_runs=0)
"""For a choice that is a matter of memory alone."""
_MOST_VIEW_COUNTS = 5
_MOST_SECONDS_BETWEEN_MEETINGS = 20.0
_MEETINGS_TO_TIMEOUT = 4

T = TypeVar("T")


@dataclass(frozen=True)
class KeptPlan:
    """What was chosen, as a checkpoint keeps it: measured again, it might be another plan, which gives other bits."""

    split: SplitConfig
    """Settings that mean the plan; `none` where one device alone is best."""
    bubble_share: float | None
    """Share of the devices' time that is expected to be idle, if the plan was made from measured times."""
    made_for: Mapping[str, Any]
    """What it depends on, as plain data: it is taken again only where all of that is the same."""

    @property
    def plan(self) -> Plan | None:
        """Give the plan; None: one device alone."""
        plan = given_plan(self.split)
        return plan and replace(plan, bubble_share=self.bubble_share)


def make_plan(
    config: Config,
    model: Network,
    loss_stage: Stage,
    placement: Placement,
    communicator: Communicator,
    report: Report,
    kept: KeptPlan | None = None,
) -> Plan | None:
    """Return the plan that the settings ask for; every rank calls it and gets the same. None: one device alone is best.

    What the settings leave open is chosen by rank 0, which measures while the others wait: a pipeline's cut and
    micro-batches; with `auto`, the strategy. Kernel and spatial have as few micro-batches as memory allows. What
    the checkpoint to go on from has `kept` is taken again instead, if it was made for the same.

    Raises:
        ValueError: what the settings ask for is not possible.
    """
    job = make_job(config, model, loss_stage, len(placement.devices), communicator.size)
    check_possible(config.split, job)
    given = given_plan(config.split)
    if given is not None:
        return given

    def choose() -> Plan | None:
        if kept is not None and kept.made_for == _made_for(config, placement, communicator.size):
            plan = kept.plan
            sizes = plan.sizes(job.num_samples) if plan else (job.num_samples,)
            report(f"split: {in_words(plan.strategy if plan else ONE_DEVICE, plan, sizes)}, as chosen before")
            return plan
        is_timed = config.split.strategy in ("auto", "pipeline")
        costs = measure_splits(
            config,
            job,
            placement,
            ranks_of_host=communicator.local_size,
            effort=AT_START if is_timed else ONLY_MEMORY,
            report=report if is_timed else _say_nothing,
        )
        ranking = rank(job, costs, wanted_of(config.split))
        chosen = ranking.choice
        if is_timed:
            report(f"split: {explain(ranking)}")
        elif not chosen.fits or len(chosen.micro_batches) > 1:
            report(f"split: {describe(chosen)}, as memory demands")
        return chosen.plan and replace(chosen.plan, bubble_share=chosen.bubble if is_timed else None)

    every_s = min(_MOST_SECONDS_BETWEEN_MEETINGS, config.train.stall_timeout_s / _MEETINGS_TO_TIMEOUT)
    return _on_first_rank(choose, communicator, every_s)


def keep_plan(config: Config, plan: Plan | None, placement: Placement, num_ranks: int) -> KeptPlan | None:
    """Return what a checkpoint keeps of the plan that `make_plan` gave; None where the settings say all of it."""
    if config.split.strategy == "none" or given_plan(config.split) is not None:
        return None
    made_for = _made_for(config, placement, num_ranks)
    return KeptPlan(chosen_config(config, plan).split, plan.bubble_share if plan else None, made_for)


def _made_for(config: Config, placement: Placement, num_ranks: int) -> dict[str, Any]:
    """Give what a plan depends on and a resumed run may change, as plain data."""
    devices = placement.devices
    is_cpu = devices[0].type == "cpu"
    return {
        "split": {key: value for key, value in to_mapping(config)["split"].items() if key != "hang_timeout_s"},
        "ranks": num_ranks,
        "device": "CPU" if is_cpu else torch.cuda.get_device_name(devices[0]),
        "threads": placement.threads_per_device if is_cpu else None,
        "places": [devices.index(device) for device in devices],
        "model.form": config.model.form,
        "train.batch_size": config.train.batch_size,
        "train.accumulation": config.train.accumulation,
        "train.recompute": config.train.recompute,
    }


def _on_first_rank(job: Callable[[], T], communicator: Communicator, every_s: float) -> T:
    """Return what a job gives on rank 0, on every rank; those that wait meet it every `every_s` seconds.

    A rank that does not come to a meeting within `train.stall_timeout_s` is taken for lost.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(job) if communicator.is_root else None
        while True:
            if future is not None:
                wait([future], timeout=every_s)
            found = (future.result(),) if future is not None and future.done() else None
            found = communicator.broadcast_object(found)
            if found is not None:
                return found[0]


def given_plan(split: SplitConfig) -> Plan | None:
    """Return the plan that needs no measuring; None where the settings leave something open."""
    is_open = split.strategy not in STRATEGIES or (split.strategy == "pipeline" and split.cut is None)
    if is_open or (split.micro_batch_sizes or split.micro_batches) is None:
        return None
    return _plan(split)


def _plan(split: SplitConfig) -> Plan:
    """Return the plan of the settings, with defaults for what they leave open."""
    micro_batches = split.micro_batch_sizes or split.micro_batches or 1
    return Plan(split.strategy, micro_batches, split.cut or (), split.view_chunks or 1, split.schedule or Plan.schedule)


def make_job(config: Config, model: Network, loss_stage: Stage, num_devices: int, num_ranks: int) -> Job:
    """Return what a rank has to do in a step."""
    train = config.train
    counts = config.view_counts
    steps = min(len(counts), _MOST_VIEW_COUNTS) - 1  # the fewest views, the most, and some evenly between them
    tried = tuple(counts[(len(counts) - 1) * number // max(1, steps)] for number in range(steps + 1))
    return Job(
        model=model,
        stages=(*model.stages(), loss_stage),
        num_devices=num_devices,
        num_samples=train.batch_size // num_ranks // train.accumulation,
        view_counts=tried,
        accumulation=train.accumulation,
    )


def measure_splits(
    config: Config, job: Job, placement: Placement, *, ranks_of_host: int, effort: Effort, report: Report
) -> Costs:
    """Measure on this rank alone what its layers cost, whole and as the settings allow to split them."""
    wanted = wanted_of(config.split)
    return measure_costs(
        config,
        job,
        placement.devices,
        placement.threads_per_device,
        strategies=wanted.strategies,
        cut=wanted.cut,
        schedule=wanted.schedule,
        ranks_of_host=ranks_of_host,
        effort=effort,
        report=report,
    )


def wanted_of(split: SplitConfig) -> Wanted:
    """Return what the settings allow."""
    if split.strategy == "none":
        return Wanted(strategies=())
    is_open = split.strategy == "auto"
    wanted = Wanted(micro_batches=split.micro_batch_sizes or split.micro_batches, may_stay_whole=is_open)
    if is_open:
        return wanted
    return replace(
        wanted,
        strategies=(split.strategy,),
        cut=split.cut,
        view_chunks=split.view_chunks or 1,
        schedule=split.schedule or Plan.schedule,
    )


def check_possible(split: SplitConfig, job: Job) -> None:
    """Raise a ValueError for what is wrong with a split whatever is measured; on every rank alike."""
    check_devices(split.strategy, job.num_devices)
    plan = _plan(split)
    if split.strategy in ("auto", "pipeline") and split.cut is None:
        plan.sizes(job.num_samples)
    else:
        plan.program(job.stages, job.num_devices, job.num_samples, job.view_counts[-1])


def _say_nothing(text: str) -> None:
    pass
