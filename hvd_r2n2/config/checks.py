"""Checks of values, and of settings against each other; done once, when a config is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from hvd_r2n2.config.sections import Config, SplitConfig


def check_config(config: Config) -> None:
    """Raise a ValueError that lists every impossible value, or else every setting that does not go with the others."""
    problems = _ranges(config)
    if not problems:
        problems = [*_orders(config), *_split(config), *_cuda_graphs(config), *_ignored(config)]
    if problems:
        raise ValueError("; ".join(problems))


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= low), f"{low:g} or more"


def _more_than(low: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value > low), f"more than {low:g}"


def _between(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: low <= value <= high), f"{low:,} to {high:,}"


_FRACTION = _between(0, 1)
_POSITIVE = _at_least(1)
_VIEWS = _between(1, 1000)
_SEED = _between(0, 2**63 - 1)

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model.width": ((lambda value: 0 < value <= 8), "more than 0, at most 8"),
    "model.num_classes": _between(2, 10**6),
    "data.validation_fraction": ((lambda value: 0 < value < 1), "more than 0, less than 1"),
    "data.models_per_category": _at_least(5),
    "data.shapes_seed": _SEED,
    "data.flip_probability": _FRACTION,
    "data.loader_threads": _between(1, 1024),
    "data.prefetch_batches": _between(1, 1024),
    "train.steps": _between(1, 10**9),
    "train.batch_size": _between(1, 10**6),
    "train.accumulation": _POSITIVE,
    "train.seed": _SEED,
    "train.min_views": _VIEWS,
    "train.max_views": _VIEWS,
    "train.clip_norm": _more_than(0),
    "train.cpu_threads": _between(1, 4096),
    "train.check_every_steps": _POSITIVE,
    "train.stall_timeout_s": _at_least(1),
    "train.spike_factor": _more_than(1),
    "train.spike_steps": _POSITIVE,
    "optimizer.learning_rate": _more_than(0),
    "optimizer.base_batch_size": _POSITIVE,
    "optimizer.warmup_steps": _at_least(0),
    "optimizer.decay": _more_than(0),
    "optimizer.final_fraction": _FRACTION,
    "optimizer.epsilon": _more_than(0),
    "optimizer.momentum": ((lambda value: 0 <= value < 1), "0 or more, less than 1"),
    "optimizer.weight_decay": _at_least(0),
    "checkpoint.every_steps": _POSITIVE,
    "checkpoint.keep_last": _POSITIVE,
    "evaluation.every_steps": _POSITIVE,
    "evaluation.views": _VIEWS,
    "evaluation.threshold": ((lambda value: 0 < value < 1), "more than 0, less than 1"),
    "evaluation.batch_size": _POSITIVE,
    "log.every_steps": _POSITIVE,
    "log.pictures": _at_least(0),
    "log.trace_step": _POSITIVE,
    "horovod.cycle_time_ms": _between(0.1, 1000),
    "horovod.fusion_threshold_mib": _between(0, 1024),
    "split.micro_batches": _POSITIVE,
    "split.view_chunks": _POSITIVE,
    "split.hang_timeout_s": _more_than(0),
}


# These have defaults that mean something, so only another value shows that somebody chose it.
_RECONSTRUCTION_ONLY = (
    "model.preset",
    "model.voxel_resolution",
    "model.form",
    "train.min_views",
    "train.max_views",
    "evaluation.views",
    "evaluation.threshold",
)


def _ranges(config: Config) -> list[str]:
    problems = []
    for dotted, (is_possible, wanted) in _RANGES.items():
        value = _value(config, dotted)
        if value is None:
            continue
        if (isinstance(value, float) and not math.isfinite(value)) or not is_possible(value):
            problems.append(f"{dotted}: {value} is not possible ({wanted})")
    return problems


def _orders(config: Config) -> list[str]:
    problems = []
    train, optimizer = config.train, config.optimizer
    if train.min_views > train.max_views:
        problems.append(f"train.min_views: {train.min_views} is more than train.max_views ({train.max_views})")
    low, high = config.data.background
    if not 0 <= low <= high <= 255:
        problems.append(f"data.background: [{low}, {high}] is not possible (two colours, 0 to 255, the lower first)")
    if config.data.categories is not None and not config.data.categories:
        problems.append("data.categories: the list is empty (null uses all categories)")
    if config.model.cross not in (None, "default") and len(set(config.model.cross)) < len(config.model.cross):
        problems.append(f"model.cross: {list(config.model.cross)} names a stage twice")
    if optimizer.schedule == "steps" and not optimizer.milestones:
        problems.append("optimizer.milestones: needed by optimizer.schedule=steps, such as [20000, 60000]")
    if optimizer.milestones and min(optimizer.milestones) < 0:
        problems.append(f"optimizer.milestones: {list(optimizer.milestones)} is not possible (steps, 0 or more)")
    if optimizer.milestones and list(optimizer.milestones) != sorted(set(optimizer.milestones)):
        problems.append(f"optimizer.milestones: {list(optimizer.milestones)} is not in rising order")
    if optimizer.betas and not all(0 <= beta < 1 for beta in optimizer.betas):
        problems.append(f"optimizer.betas: {list(optimizer.betas)} is not possible (0 or more, less than 1)")
    if optimizer.scale_learning_rate != "none" and optimizer.base_batch_size is None:
        problems.append(f"optimizer.base_batch_size: needed by scale_learning_rate={optimizer.scale_learning_rate}")
    if train.batch_size % train.accumulation:
        problems.append(f"train.accumulation: {train.accumulation} does not divide train.batch_size={train.batch_size}")
    return problems


def _split(config: Config) -> list[str]:
    """What is wrong with a split whatever the network and the number of ranks are."""
    problems = []
    split, train = config.split, config.train
    num_samples, sizes = train.batch_size // train.accumulation, split.micro_batch_sizes
    share = f"train.batch_size / train.accumulation = {num_samples} samples"
    if split.micro_batches is not None and split.micro_batches > num_samples:
        problems.append(f"split.micro_batches: {split.micro_batches} is more than {share}")
    if split.micro_batches is not None and sizes is not None:
        problems.append("split.micro_batch_sizes: stands for split.micro_batches, not beside it (leave one out)")
    if sizes is not None and (not sizes or min(sizes) < 1):
        problems.append(f"split.micro_batch_sizes: {list(sizes)} is not possible (1 or more samples each)")
    elif sizes is not None and num_samples % sum(sizes):
        problems.append(
            f"split.micro_batch_sizes: {list(sizes)} add up to {sum(sizes)}, which is no rank's share of {share}"
        )
    if split.cross is not None and config.model.cross not in ("default", split.cross):
        problems.append(f"split.cross: sets model.cross, which is {config.model.cross} already (leave one out)")
    if split.devices is not None:
        kinds = {name.partition(":")[0] for name in split.devices}
        if len(kinds) != 1 or not all(re.fullmatch(r"(cpu|cuda):\d+", name) for name in split.devices):
            problems.append(
                f"split.devices: {list(split.devices)} is not possible (GPUs as [cuda:0, cuda:1], or logical CPU "
                "devices as [cpu:0, cpu:1])"
            )
        elif train.device not in ("auto", *kinds):
            problems.append(f"split.devices: {list(split.devices)}, but train.device={train.device}")
    return problems


def _cuda_graphs(config: Config) -> list[str]:
    """What does not go with CUDA graphs."""
    train, strategy = config.train, config.split.strategy
    if not train.cuda_graphs:
        return []
    problems = []
    if train.device == "cpu":
        problems.append("train.cuda_graphs: needs a GPU, but train.device=cpu")
    if strategy != "none":
        problems.append(f"train.cuda_graphs: is for one device a rank, but split.strategy={strategy} (leave one out)")
    if train.recompute:
        problems.append("train.cuda_graphs: does not go with train.recompute (leave one out)")
    return problems


def _ignored(config: Config) -> list[str]:
    """A setting that would be ignored is a mistake somewhere: say so instead."""
    optimizer, data, train = config.optimizer, config.data, config.train
    is_adam = optimizer.name in ("adam", "adamw")
    rules = [
        ("optimizer.milestones", optimizer.milestones, optimizer.schedule == "steps", "optimizer.schedule=steps"),
        ("optimizer.decay", optimizer.decay, optimizer.schedule == "steps", "optimizer.schedule=steps"),
        ("optimizer.final_fraction", optimizer.final_fraction, optimizer.schedule == "cosine", "schedule=cosine"),
        ("optimizer.betas", optimizer.betas, is_adam, "optimizer.name=adam or adamw"),
        ("optimizer.epsilon", optimizer.epsilon, is_adam, "optimizer.name=adam or adamw"),
        ("optimizer.momentum", optimizer.momentum, optimizer.name == "sgd", "optimizer.name=sgd"),
        (
            "optimizer.base_batch_size",
            optimizer.base_batch_size,
            optimizer.scale_learning_rate != "none",
            "optimizer.scale_learning_rate=linear or sqrt",
        ),
        ("data.models_per_category", data.models_per_category, data.root is None, "data.root=null (built-in shapes)"),
        ("data.shapes_seed", data.shapes_seed, data.root is None, "data.root=null (built-in shapes)"),
        ("data.validation_fraction", data.validation_fraction, data.split == "r2n2", "data.split=r2n2"),
        ("train.cpu_threads", train.cpu_threads, train.device != "cuda", "a CPU device"),
        ("train.tf32", None if train.tf32 else False, train.device != "cpu", "a GPU"),
        ("train.spike_steps", train.spike_steps, train.spike_factor is not None, "train.spike_factor"),
        ("train.spike_action", train.spike_action, train.spike_factor is not None, "train.spike_factor"),
        ("model.num_classes", config.model.num_classes, config.model.classifies, "model.name=alexnet"),
        *_split_rules(config.split),
    ]
    ignored = [(key, wanted) for key, value, is_used, wanted in rules if value is not None and not is_used]
    if config.model.classifies:
        changed = [key for key in _RECONSTRUCTION_ONLY if _value(config, key) != _value(Config(), key)]
        ignored += [(key, "the networks of 3D-R2N2") for key in changed]
    return [f"{key}: would be ignored, it only goes with {wanted}" for key, wanted in ignored]


def _split_rules(split: SplitConfig) -> list[tuple[str, Any, bool, str]]:
    """Say which settings of a split go with which strategies."""
    any_split = "a split.strategy other than none"
    goes_with = {
        "devices": (split.strategy != "none", any_split),
        "micro_batches": (split.strategy != "none", any_split),
        "micro_batch_sizes": (split.strategy != "none", any_split),
        "cut": (split.strategy == "pipeline", "split.strategy=pipeline"),
        "view_chunks": (split.strategy == "pipeline", "split.strategy=pipeline"),
        "schedule": (split.strategy == "pipeline", "split.strategy=pipeline"),
        "cross": (split.strategy == "kernel", "split.strategy=kernel"),
    }
    return [(f"split.{key}", getattr(split, key), is_used, wanted) for key, (is_used, wanted) in goes_with.items()]


def _value(config: Config, dotted: str) -> Any:
    section, key = dotted.split(".")
    return getattr(getattr(config, section), key)
