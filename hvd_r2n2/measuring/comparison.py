"""`benchmark split` and `benchmark ranks`: settings, arms, rounds, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hvd_r2n2.config import Config, SplitConfig
from hvd_r2n2.measuring.arms import ONE_DEVICE, ArmSpec, possible_accumulations, rank_arms, split_arms
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.prediction import predict_arms
from hvd_r2n2.measuring.report import heading, origin
from hvd_r2n2.measuring.result import ArmResult, bound_of, entries, is_disturbed
from hvd_r2n2.measuring.rounds import choose_accumulation, measure, with_trials
from hvd_r2n2.training.tasks import resolve_network

_PUBLISHED_CLASSES = 1000
_OF_ALL_SPLITS = ("devices", "hang_timeout_s")


@dataclass(frozen=True)
class Request:
    """How to measure."""

    rounds: int
    """Measured steps of each arm."""
    warmup: int
    """Steps of each arm before them."""
    accumulation: int | None
    """Micro-batches of one device; None tries which are fastest."""
    command: str
    """What to record as the command."""
    report: Callable[[str], None]
    """Takes lines for people."""
    predict: bool = False
    """Whether to let the planner say before what splits and one device will take."""

    def __post_init__(self) -> None:
        for name, value, least in (("--steps", self.rounds, 1), ("--warmup", self.warmup, 1)):
            if value < least:
                raise ValueError(f"{name} {value} is not possible ({least} or more)")


@dataclass(frozen=True)
class Comparison:
    """What a benchmark found."""

    title: str
    content: dict[str, Any]
    """All figures, as they are written."""
    results: tuple[ArmResult, ...]


def compare_splits(
    config: Config, request: Request, names: Sequence[str] | None, changes: Sequence[Sequence[str]]
) -> Comparison:
    """Measure one device, splits of the network over two, and DDP over the same two.

    Raises:
        ValueError: the settings are not possible.
        JobError: an arm has failed.
    """
    machine, config, split = Machine.find(config), *without_split(for_random_batches(config))
    arms = [_with_split(arm, split) for arm in split_arms(config, names, changes)]
    return _compare("split", config, machine, arms, request)


def compare_ranks(config: Config, request: Request) -> Comparison:
    """Measure one and two ranks of Horovod and of DDP, the batch of a rank or of all ranks being the same.

    Raises:
        ValueError: the settings are not possible.
        JobError: an arm has failed.
    """
    config = for_random_batches(config)
    if config.split.strategy != "none":
        raise ValueError("benchmark ranks: split.strategy must be none, each rank has one device")
    return _compare("ranks", config, Machine.find(config), rank_arms(config), request)


def for_random_batches(config: Config) -> Config:
    """Fill in what the data would say: a classifier has as many classes as the published one unless told otherwise."""
    config = resolve_network(config)
    if config.model.classifies and config.model.num_classes is None:
        config = replace(config, model=replace(config.model, num_classes=_PUBLISHED_CLASSES))
    return config


def without_split(config: Config) -> tuple[Config, SplitConfig]:
    """Return the settings for one device, and those of the split apart."""
    return replace(config, split=SplitConfig()), config.split


def find_disturbed(results: Sequence[ArmResult], machine: Machine, report: Callable[[str], None]) -> list[str]:
    """Name the arms that other programs disturbed, and warn of them; only devices of one thread can tell."""
    disturbed = is_disturbed(results) if machine.threads == 1 and not machine.gpus else []
    if disturbed:
        report(f"warning: other programs used the processors ({', '.join(disturbed)}): measure again without")
    return disturbed


def _with_split(arm: ArmSpec, split: SplitConfig) -> ArmSpec:
    """Return an arm of a split with the settings of the config's own split: devices, and all where both are alike."""
    if not any(override.startswith("split.strategy=") for override in arm.overrides):
        return arm
    is_own = f"split.strategy={split.strategy}" in arm.overrides and arm.name == split.strategy
    given = {override.partition("=")[0] for override in arm.overrides}
    carried = []
    for field in fields(SplitConfig):
        value = getattr(split, field.name)
        is_wanted = (is_own or field.name in _OF_ALL_SPLITS) and f"split.{field.name}" not in given
        if is_wanted and value != field.default:
            carried.append(f"split.{field.name}={json.dumps(value)}")  # YAML reads it
    return arm.with_overrides(*carried)


def _compare(name: str, config: Config, machine: Machine, arms: Sequence[ArmSpec], request: Request) -> Comparison:
    num_views = config.view_counts[-1]
    title = heading(config, machine, num_views)
    request.report(title)
    reasons = {arm.name: machine.why_not(arm) for arm in arms}
    left_out = {arm: reason for arm, reason in reasons.items() if reason is not None}
    arms = [arm for arm in arms if arm.name not in left_out]
    for arm in arms:
        machine.settings(arm, config)
    arms, trials = _settle(arms, config, machine, num_views, request)
    predicted_s = predict_arms(arms, config, machine, num_views, request.report) if request.predict else {}
    found = measure(
        arms,
        config,
        machine,
        num_views=num_views,
        rounds=request.rounds,
        warmup=request.warmup,
        report=request.report,
    )
    found = with_trials(found, trials, predicted_s)
    disturbed = find_disturbed(found.results, machine, request.report)
    content = {
        "benchmark": name,
        "bound": bound_of(found.results),
        "arms": entries(found.results, num_views),
        "left_out": left_out,
        "num_views": num_views,
        "rounds": request.rounds,
        "warmup": request.warmup,
        "memory_released_between_steps": found.is_releasing,
        "disturbed": disturbed,
        **origin(config, machine, request.command),
    }
    return Comparison(title, content, found.results)


def _settle(
    arms: Sequence[ArmSpec], config: Config, machine: Machine, num_views: int, request: Request
) -> tuple[list[ArmSpec], dict[str, dict[int, float]]]:
    """Give one device its best number of micro-batches, and every other arm that is no split micro-batches as large.

    DDP overlaps communication with the backward pass of the last micro-batch alone, so it may be faster with one:
    both are tried.
    """
    trials: dict[str, dict[int, float]] = {}
    batch = config.train.batch_size
    if request.accumulation is not None:
        best = request.accumulation
    else:
        one, counts = ArmSpec(ONE_DEVICE), possible_accumulations(batch)
        chosen, tried = choose_accumulation(one, counts, config, machine, num_views, request.report)
        trials[ONE_DEVICE] = dict(tried)
        best = chosen.config(config).train.accumulation
    settled = []
    for arm in arms:
        if arm.config(config).split.strategy != "none":
            settled.append(arm)
            continue
        per_process = arm.samples(config) // arm.processes
        same = max(1, best * per_process // batch)
        if arm.kind != "ddp" or arm.processes == 1 or same == 1:
            settled.append(arm.with_accumulation(same))
            continue
        arm, tried = choose_accumulation(arm, (same, 1), config, machine, num_views, request.report)
        trials[arm.name] = dict(tried)
        settled.append(arm)
    return settled, trials
