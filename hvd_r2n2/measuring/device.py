"""`benchmark device`: training steps and inference on one device, against the machine's own rate of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hvd_r2n2.common.hardware import bfloat16_hardware
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arithmetic import count_arithmetic
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.comparison import Request, for_random_batches, views_of
from hvd_r2n2.measuring.device_arms import (
    device_arms,
    for_inference,
    matrix_arms,
    same_as_defaults,
)
from hvd_r2n2.measuring.device_result import device_entries, machine_rates
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.matrix import quick_rate
from hvd_r2n2.measuring.report import origin
from hvd_r2n2.measuring.rounds import measure

Part = Literal["training", "inference", "single"]
_LONGEST_STEP_S = 120.0
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
    left_out: dict[str, str] = {}
    if bfloat16_hardware(machine.device_type) is None:
        rate = quick_rate("bfloat16", torch.device(machine.device_type))
        left_out = arms_in_software(arms, config, rate, [*(names or ()), *(change[0] for change in changes)])
    found = {arm.name: named_entry(arm, left_out.get(arm.name)) for arm in arms}
    arms = tuple(arm for arm in arms if arm.name not in left_out)
    notes = [*_notes(config, machine, arms), *(f"{name}: left out: {reason}" for name, reason in left_out.items())]
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
        return [*matrix_arms(arms, config), *arms], views_of(config)
    own = [for_inference(arm) for arm in arms]
    if part == "single":
        own = [arm.with_overrides("evaluation.batch_size=1") for arm in own]
    num_views = 1 if classifies or part == "single" else config.evaluation.views
    return [*matrix_arms(arms, config), *own], num_views


def _title(config: Config, machine: Machine) -> str:
    network, train, evaluation = config.model, config.train, config.evaluation
    size = "" if network.classifies else f", {network.voxel_resolution}³"
    views = ("", "") if network.classifies else (f" of {views_of(config)} view(s)", f" of {evaluation.views} view(s)")
    where = "one GPU" if machine.gpus else f"{machine.threads} thread(s)"
    return (
        f"{network.name}, width {network.width:g}{size}, {where}; training: batch {train.batch_size}{views[0]}; "
        f"inference: batch {evaluation.batch_size}{views[1]}"
    )


def _notes(config: Config, machine: Machine, arms: Sequence[ArmSpec]) -> list[str]:
    """Say what a reader of the figures must know."""
    same = same_as_defaults(config, arms, machine.device_type)
    notes = [f"{name}: the same as {default}" for name, default in same.items()]
    graphed = [arm.name for arm in arms if arm.config(config).train.cuda_graphs]
    if graphed:
        notes.append(
            f"{', '.join(graphed)}: CUDA graphs are of training steps alone, inference has none; the profiler counts "
            "their kernels as `other`"
        )
    if bfloat16_hardware(machine.device_type) is None:
        notes.append(
            f"this machine's {machine.device_type.upper()} has no hardware for bfloat16: it computes in software"
        )
    return notes


def named_entry(arm: ArmSpec, left_out: str | None) -> dict[str, Any]:
    """Return an arm's name and settings; of one that is left out also why, with its figures None."""
    entry: dict[str, Any] = {"name": arm.name, "settings": list(arm.overrides)}
    if left_out is None:
        return entry
    return entry | {"left_out": left_out, "median_s": None, "images_per_s": None, "of_matrix_rate": None}


def arms_in_software(
    arms: Sequence[ArmSpec], config: Config, flop_per_s: float, named: Sequence[str] = ()
) -> dict[str, str]:
    """Return which arms in bfloat16 are left out, and why: those whose steps would take minutes, unless they are named.

    Args:
        arms: all arms.
        config: the settings that they differ from.
        flop_per_s: what the machine does in bfloat16 without hardware for it.
        named: what --arms or --arm names.
    """
    found = {}
    for arm in arms:
        own = arm.config(config)
        if own.train.dtype != "bfloat16" or arm.name in named:
            continue
        step_s = count_arithmetic(own.model, own.train.batch_size, views_of(config)).step / flop_per_s
        if step_s > _LONGEST_STEP_S:
            found[arm.name] = (
                f"in bfloat16, which this machine computes in software, a step would take some {step_s / 60:.0f} "
                f"minutes (--arms {arm.name} measures it all the same)"
            )
    return found
