"""Which task a configuration means, and the settings that its network and data leave open, filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hvd_r2n2.config import Config, ModelConfig
from hvd_r2n2.training.data import find_classes
from hvd_r2n2.training.setup import network_cross
from hvd_r2n2.training.task import Task
from hvd_r2n2.training.task_classification import ClassificationTask
from hvd_r2n2.training.task_reconstruction import ReconstructionTask


def create_task(config: Config) -> Task[Any]:
    """Return the task of a network, from resolved settings."""
    return ClassificationTask(config) if config.model.classifies else ReconstructionTask(config)


def resolve(config: Config) -> Config:
    """Fill in what stands for something else: `split.cross`, `model.cross` by name, the classes and their number.

    Nothing changes in settings that are resolved already.

    Raises:
        ValueError: the data have no classes, or not as many as `model.num_classes` says.
    """
    config = resolve_network(config)
    if not config.model.classifies:
        return config
    classes = find_classes(config)
    if config.model.num_classes not in (None, len(classes)):
        raise ValueError(
            f"model.num_classes: {config.model.num_classes}, but there are {len(classes)} classes in the data "
            f"({', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}); leave it out to have them counted"
        )
    return replace(
        config,
        model=replace(config.model, num_classes=len(classes)),
        data=replace(config.data, categories=classes),
    )


def resolve_network(config: Config) -> Config:
    """Fill in what needs no data: `split.cross` and `model.cross`."""
    if config.split.cross is not None:
        config = replace(config, model=replace(config.model, cross=config.split.cross))
    return replace(config, model=resolve_model(config.model), split=replace(config.split, cross=None))


def resolve_model(config: ModelConfig) -> ModelConfig:
    """Fill in `model.cross` alone."""
    return replace(config, cross=network_cross(config))
