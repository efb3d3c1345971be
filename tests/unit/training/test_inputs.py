"""Random batches fit the networks, and are the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.measuring.comparison import for_random_batches
from hvd_r2n2.training.engine import OneDevice
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.tasks import create_task

CPU = torch.device("cpu")


def settings(*overrides: str) -> Config:
    return for_random_batches(load_config(None, ["model.width=0.0625", "train.batch_size=2", *overrides]))


@pytest.mark.parametrize("name", ["3d-lstm-1", "res3d-gru-3", "alexnet"])
def test_networks_train_on_random_batches(name: str) -> None:
    config = settings(f"model.name={name}")
    model = build_model(config.model, 0)
    inputs = random_inputs(config, model, 2, config.view_counts[-1], CPU)
    engine = OneDevice(config, model, create_task(config).loss_stage(), Alone())
    report = engine.step(inputs, 1e-4)
    engine.close()
    assert report.gradient_norm > 0


def test_random_batches_are_a_function_of_the_seed() -> None:
    first, second, other = (
        random_inputs(config, build_model(config.model, 0), 2, 3, CPU)
        for config in (settings(), settings(), settings("train.seed=1"))
    )
    assert first["images"].shape == (3, 2, 3, 127, 127)
    assert first["occupancy"].shape == (2, 32, 32, 32)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert not torch.equal(tensor, other[name])


def test_classifier_has_the_published_number_of_classes_unless_told_otherwise() -> None:
    assert settings("model.name=alexnet").model.num_classes == 1000
    assert settings("model.name=alexnet", "model.num_classes=13").model.num_classes == 13


def test_scheme_of_crossing_stages_is_that_of_every_arm() -> None:
    config = settings("model.name=alexnet", "split.strategy=kernel", "split.cross=[conv3,fc8]")
    assert config.model.cross == ("conv3", "fc8")
    assert config.split.cross is None
