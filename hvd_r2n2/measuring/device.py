"""`benchmark device`: training steps and inference on one device, against the machine's own rate of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hvd_r2n2.common.hardware import bfloat16_hardware
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.comparison import Request, for_random_batches
from hvd_r2n2.measuring.device_arms import (
    DEFAULT_FLOAT32,
    device_arms,
    for_inference,
    matrix_arms,
    same_as_defaults,
)
from hvd_r2n2.measuring.device_result import device_entries, machine_rates
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.report import origin
from hvd_r2n2.measuring.rounds import measure

Part = Literal["training", "inference", "single"]
PARTS: tuple[Part, ...] = ("training", "inference", "single")
"""Training steps, inference of batches, inference of one sample with one view."""


@dataclass(frozen=True)
class DeviceComparison:
    """What the benchmark found."""

    title: str
    content: dict[str, Any]
    """All figures, as they are written."""


def compare_device(
    config: Config,
    request: Request,
    names: Sequence[str] | None,
    changes: Sequence[Sequence[str]],
    parts: Sequence[Part],
) -> DeviceComparison:
    """Measure the plain network, the optimisations and the defaults on one device with all its threads.

    Args:
        config: the settings of the defaults.
        request: how to measure.
        names: which of the optimisations; None for all.
        changes: NAME SECTION.KEY=VALUE …: settings of arms.
        parts: what to measure, one after the other; within each the arms take turns.

    Raises:
        ValueError: the settings are not possible.
        JobError: an arm has failed.
    """
    config = for_random_batches(config)
    machine = Machine.find(config, num_devices=1)
    arms = device_arms(config, names, changes, machine.device_type)
    title = _title(config, machine)
    request.report(title)
    found: dict[str, dict[str, Any]] = {arm.name: {"name": arm.name, "settings": list(arm.overrides)} for arm in arms}
    notes = _notes(config, machine, arms)
    for note in notes:
        request.report(note)
    rates: dict[str, Any] = {}
    released: dict[str, bool] = {}
    for part in parts:
        own, num_views = _arms_of(part, arms, config)
        request.report(f"{part}: {', '.join(arm.name for arm in own)}")
        measured = measure(
            own,
            config,
            machine,
            num_views=num_views,
            rounds=request.rounds,
            warmup=request.warmup,
            report=request.report,
            profiled=True,
        )
        results = [result for result in measured.results if result.arm.kind != "matrix"]
        rates[part] = machine_rates(measured.results)
        released[part] = measured.is_releasing
        for result, entry in zip(results, device_entries(results, config, rates[part], num_views), strict=True):
            # The figures of training stand beside the name, those of inference apart.
            found[result.arm.name] |= entry if part == "training" else {part: entry}
    content = {
        "benchmark": "device",
        "arms": list(found.values()),
        "matrix_rates": rates,
        "notes": notes,
        "bfloat16_hardware": bfloat16_hardware(machine.device_type),
        "rounds": request.rounds,
        "warmup": request.warmup,
        "memory_released_between_steps": released,
        **origin(config, machine, request.command),
    }
    return DeviceComparison(title, content)


def _arms_of(part: Part, arms: Sequence[ArmSpec], config: Config) -> tuple[list[ArmSpec], int]:
    """Return a part's arms, first those that measure the machine, and the views of its steps."""
    classifies = config.model.classifies
    if part == "training":
        return [*matrix_arms(arms, config), *arms], config.view_counts[-1]
    own = [for_inference(arm) for arm in arms]
    if part == "single":
        own = [arm.with_overrides("evaluation.batch_size=1") for arm in own]
    num_views = 1 if classifies or part == "single" else config.evaluation.views
    return [*matrix_arms(arms, config), *own], num_views


def _title(config: Config, machine: Machine) -> str:
    network, train, evaluation = config.model, config.train, config.evaluation
    size = "" if network.classifies else f", {network.voxel_resolution}³"
    views = (
        ("", "") if network.classifies else (f" of {config.view_counts[-1]} view(s)", f" of {evaluation.views} view(s)")
    )
    where = "one GPU" if machine.gpus else f"{machine.threads} thread(s)"
    return (
        f"{network.name}, width {network.width:g}{size}, {where}; training: batch {train.batch_size}{views[0]}; "
        f"inference: batch {evaluation.batch_size}{views[1]}"
    )


def _notes(config: Config, machine: Machine, arms: Sequence[ArmSpec]) -> list[str]:
    """Say what a reader of the figures must know."""
    same = same_as_defaults(config, arms, machine.device_type)
    notes = [f"{name}: the same as {DEFAULT_FLOAT32}" for name in same]
    graphed = [arm.name for arm in arms if arm.config(config).train.cuda_graphs]
    if graphed:
        notes.append(
            f"{', '.join(graphed)}: CUDA graphs are of training steps alone, inference has none; the profiler counts "
            "their kernels as `other`"
        )
    if bfloat16_hardware(machine.device_type) is None:
        means = "computes it in software" if machine.gpus else "multiplies such numbers in float32"
        notes.append(f"this machine's {machine.device_type.upper()} has no hardware for bfloat16: it {means}")
    return notes
