"""`plan scale --calibrate`: allreduces of ranks on this machine, links fitted to them, and the steps these predict."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from hvd_r2n2.comm import find_launcher
from hvd_r2n2.config import Config, with_overrides
from hvd_r2n2.measuring.calibration_network import CalibrationRequest, NetworkCalibration, fusion_of
from hvd_r2n2.measuring.comparison import for_random_batches
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.networks import why_not
from hvd_r2n2.measuring.prediction import measure_layers
from hvd_r2n2.measuring.report import heading, origin
from hvd_r2n2.measuring.step_costs import measured_workload
from hvd_r2n2.scaling.calibration import KIND, VERSION, Polling, Shared
from hvd_r2n2.scaling.links import Link
from hvd_r2n2.scaling.workload import Workload
from hvd_r2n2.split.planner import DATA_PARALLEL
from hvd_r2n2.training.machine_costs import Effort
from hvd_r2n2.training.step import share_of_batch


def calibrate(config: Config, request: CalibrationRequest) -> dict[str, Any]:
    """Measure allreduces alone, fit links to them, predict training steps, and measure those.

    Steps are predicted from the layers' times of one rank, the link and the number of cores: nothing is fitted to them.

    Args:
        config: without a split.
        request: how.

    Raises:
        ValueError: the settings are not possible here.
        JobError: a rank has failed.
    """
    if find_launcher("mpirun") is None:
        raise ValueError("there is no mpirun (scripts/setup.sh installs it)")
    one = with_overrides(config, ("train.device=cpu", "train.cpu_threads=1"), "--calibrate")
    config = for_random_batches(one)
    if config.train.accumulation > 1:
        raise ValueError("--calibrate: train.accumulation must be 1")
    variables = sorted(os.environ.keys() & {"HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD"})
    if variables:
        raise ValueError(f"--calibrate: {', '.join(variables)}: would go before the settings of horovod.* (unset it)")
    if config.horovod.fusion_threshold_mib:
        raise ValueError(
            "--calibrate: links are fitted to tensors that are averaged each on its own, horovod.fusion_threshold_mib="
            f"{config.horovod.fusion_threshold_mib:g} is not possible (0)"
        )
    for count in request.ranks:
        share_of_batch(config, count)
    machine = Machine.find(config, num_devices=min(len(os.sched_getaffinity(0)), request.ranks[-1]))
    num_views = config.view_counts[-1]
    request.report(heading(config, machine, num_views))
    workload, shared = _measure_stages(config, machine, num_views, request.effort, request.report)
    links: dict[str, Link] = {}
    polling: dict[str, dict[int, Polling]] = {}
    found: dict[str, Any] = {"allreduces": [], "steps": []}
    left_out: dict[str, str] = {}
    for network in request.networks:
        reason = why_not(network, max(request.ranks))
        if reason is not None:
            left_out[network] = reason
            request.report(f"left out: {network} ({reason})")
            continue
        with NetworkCalibration(config, machine, num_views, request, network) as calibration:
            bursts = calibration.bursts()
            links[network], entries = calibration.fit(bursts)
            polling[network] = calibration.polling(bursts, shared.slowdown)
            found["allreduces"] += entries
            found["steps"] += calibration.steps(workload, shared, links[network], polling[network])
    return {
        "kind": KIND,
        "version": VERSION,
        "links": {name: asdict(link) for name, link in links.items()},
        "polling": {
            name: {count: asdict(shares) for count, shares in by_ranks.items()} for name, by_ranks in polling.items()
        },
        **found,
        "errors": _errors(found),
        "left_out": left_out,
        "machine": asdict(shared),
        "layers": asdict(workload),
        "fusion": asdict(fusion_of(config)),
        "num_views": num_views,
        "rounds": request.rounds,
        "warmup": request.warmup,
        **origin(config, machine, request.command),
    }


def _measure_stages(
    config: Config, machine: Machine, num_views: int, effort: Effort, report: Callable[[str], None]
) -> tuple[Workload, Shared]:
    """Measure the layers on one core, and by how much all of them are slower when every core has its own."""
    names = ", ".join(f"cpu:{number}" for number in range(machine.num_devices))
    every = ("split.strategy=auto", f"split.devices=[{names}]") if machine.num_devices > 1 else ()
    given, job, costs = measure_layers("--calibrate", every, config, machine, num_views, (), effort, report)
    workload = measured_workload(given, replace(job, num_devices=1), costs, "measured on one core")
    return workload, Shared(machine.num_devices, costs.machine.slowdowns.get(DATA_PARALLEL, 1.0))


def _errors(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the median and the largest of all errors, whatever their sign; steps of one rank send nothing."""
    by_kind = {
        "allreduces": [abs(entry["error"]) for entry in found["allreduces"]],
        "steps_of_one_rank": [abs(entry["error"]) for entry in found["steps"] if entry["ranks"] == 1],
        "steps": [abs(entry["error"]) for entry in found["steps"] if entry["ranks"] > 1],
        "steps_relative": [abs(entry["relative_error"]) for entry in found["steps"] if entry["ranks"] > 1],
    }
    return {kind: {"median": median(errors), "largest": max(errors)} for kind, errors in by_kind.items() if errors}
