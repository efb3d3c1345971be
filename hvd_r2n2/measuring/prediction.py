"""What the planner predicts: for this machine's devices, and for the arms of a benchmark beside what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hvd_r2n2.comm import Alone
from hvd_r2n2.common.memory import keep_freed_memory, release_freed_memory
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.runner import build_network
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.planner import Job, predict, predict_whole
from hvd_r2n2.split.program import spread
from hvd_r2n2.training.machine_costs import Effort, measure_costs
from hvd_r2n2.training.placement import Placement, place_rank
from hvd_r2n2.training.planning import check_possible, given_plan, make_job, measure_splits

_EFFORT = Effort(num_runs=5, seconds_a_run=10.0)


def predict_arms(
    arms: Sequence[ArmSpec], config: Config, machine: Machine, num_views: int, report: Callable[[str], None]
) -> dict[str, float]:
    """Measure the layers and return the predicted step of every arm whose micro-batches and cut are given, in seconds.

    Arms of Horovod ranks and independent copies are left out: nothing is planned for them. No more samples are measured
    at a time than the largest micro-batch of an arm has, so that what an arm has the memory for is enough.
    """
    sizes = {arm: given for arm in arms if (given := _micro_batches(arm, config))}
    if not sizes:
        return {}
    strategies = sorted({arm.config(config).split.strategy for arm in sizes} - {"none"})
    largest = max(max(given) for given in sizes.values())
    planned = ("split.strategy=auto", f"train.batch_size={largest}", "train.accumulation=1")
    _, job, costs = measure_layers("--predict", planned, config, machine, num_views, strategies, _EFFORT, report)
    return {arm.name: _predicted_s(arm, config, job, costs, given) for arm, given in sizes.items()}


def measure_devices(
    config: Config, placement: Placement, num_ranks: int, effort: Effort, report: Callable[[str], None]
) -> tuple[Job, Costs]:
    """Build the network on the devices and measure its layers there, whole and as the settings allow to split them.

    Raises:
        ValueError: the split of the settings is not possible.
    """
    job = make_job(config, *build_network(config, placement), len(placement.devices), num_ranks)
    if config.split.strategy != "none":
        check_possible(config.split, job)
    return job, measure_splits(config, job, placement, ranks_of_host=1, effort=effort, report=report)


def measure_layers(
    name: str,
    overrides: Sequence[str],
    config: Config,
    machine: Machine,
    num_views: int,
    strategies: Sequence[str],
    effort: Effort,
    report: Callable[[str], None],
) -> tuple[Config, Job, Costs]:
    """Measure what the layers cost on the devices that a benchmark has, in this process; leave no memory behind.

    Returns the settings they were measured with, what was planned for, and what it costs.

    Args:
        name: what errors call it.
        overrides: what differs from the settings: the split and its devices.
        config: the settings.
        machine: the devices.
        num_views: of each step.
        strategies: splits whose transfers are measured too.
        effort: how thoroughly.
        report: takes lines of text.

    Raises:
        ValueError: the settings are not possible.
    """
    views = () if config.model.classifies else (f"train.min_views={num_views}", f"train.max_views={num_views}")
    given = machine.settings(ArmSpec(name, overrides=(*overrides, *views)), config)
    placement = place_rank(given, Alone(), report)
    keep_freed_memory()
    job = make_job(given, *build_network(given, placement), len(placement.devices), num_ranks=1)
    costs = measure_costs(
        given,
        job,
        placement.devices,
        placement.threads_per_device,
        strategies=strategies,
        cut=None,
        schedule=None,
        ranks_of_host=1,
        effort=effort,
        report=report,
    )
    release_freed_memory()
    return given, job, costs


def _micro_batches(arm: ArmSpec, config: Config) -> tuple[int, ...]:
    """Give the samples of each micro-batch on a device, of a split as often as it accumulates; none: not planned."""
    own = arm.config(config)
    samples, parts = own.train.batch_size, own.train.accumulation
    plan = given_plan(own.split)
    if plan is not None:
        return plan.sizes(samples // parts)
    if own.split.strategy == "none" and arm.kind in ("engine", "ddp"):
        return spread(samples // arm.processes, parts)
    return ()


def _predicted_s(arm: ArmSpec, config: Config, job: Job, costs: Costs, micro_batches: tuple[int, ...]) -> float:
    own = arm.config(config)
    samples, parts = own.train.batch_size, own.train.accumulation
    plan = given_plan(own.split)
    if plan is not None:
        return predict(replace(job, num_samples=samples // parts, accumulation=parts), costs, plan).step_s
    return predict_whole(replace(job, num_samples=samples), costs, arm.processes, micro_batches).step_s
