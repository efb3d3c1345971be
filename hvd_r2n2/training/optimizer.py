"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import TypeVar, cast

import torch

from hvd_r2n2.config import Config, OptimizerConfig

_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)


def _eager(kind: type[_Kind]) -> type[_Kind]:
    """Give a kind of optimizer without the wrappers that torch.compile needs around some of its methods.

    Their first call imports the compiler: 1.3 s of processor time at the start of each rank, for nothing.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[_Kind]", type(kind.__name__, (kind,), methods))


SGD, Adam, AdamW = _eager(torch.optim.SGD), _eager(torch.optim.Adam), _eager(torch.optim.AdamW)


def build_optimizer(config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer over parameters; weights decay, biases (and other vectors) do not.

    `adam` adds the decay to the gradient, as the released code does (3D-R2N2, lib/solver.py); `adamw` decays the
    weights apart from it (Loshchilov and Hutter 2019).
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        momentum = 0.9 if config.momentum is None else config.momentum
        return SGD(groups, lr=config.learning_rate, momentum=momentum, fused=True)
    kind = Adam if config.name == "adam" else AdamW
    epsilon = 1e-8 if config.epsilon is None else config.epsilon
    return kind(groups, lr=config.learning_rate, betas=config.betas or (0.9, 0.999), eps=epsilon, fused=True)


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of `step` (from 0): a function of the step and the settings alone.

    It never depends on the number of ranks; `optimizer.scale_learning_rate` compares the global batch sizes.
    """
    settings, total = config.optimizer, config.train.steps
    highest = settings.learning_rate * _batch_factor(config)
    if step < settings.warmup_steps:
        return highest * (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "constant":
        return highest
    if settings.schedule == "steps":
        passed = sum(step >= milestone for milestone in settings.milestones or ())
        return highest * (0.1 if settings.decay is None else settings.decay) ** passed
    progress = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    last = highest * (settings.final_fraction or 0.0)
    return last + (highest - last) * 0.5 * (1 + math.cos(math.pi * progress))


def _batch_factor(config: Config) -> float:
    settings = config.optimizer
    if settings.scale_learning_rate == "none" or settings.base_batch_size is None:
        return 1.0
    ratio = config.train.batch_size / settings.base_batch_size
    return ratio if settings.scale_learning_rate == "linear" else math.sqrt(ratio)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
