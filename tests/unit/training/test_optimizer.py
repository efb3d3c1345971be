"""The optimizer's groups and the course of the learning rate, against numbers worked out by hand."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from hvd_r2n2.config import load_config
from hvd_r2n2.training.optimizer import build_optimizer, learning_rate
from hvd_r2n2.training.step import share_of_batch
from tests.conftest import Launcher


def test_released_schedule_drops_tenfold_at_its_milestone() -> None:
    config = load_config(
        None,
        [
            "train.steps=60000",
            "optimizer.learning_rate=1e-4",
            "optimizer.schedule=steps",
            "optimizer.milestones=[20000, 60000]",
            "optimizer.warmup_steps=0",
        ],
    )
    rates = [learning_rate(config, step) for step in (0, 19999, 20000, 59999)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


def test_warm_up_rises_evenly_and_cosine_falls_to_its_end() -> None:
    config = load_config(
        None,
        [
            "train.steps=110",
            "optimizer.learning_rate=1",
            "optimizer.warmup_steps=10",
            "optimizer.final_fraction=0.2",
        ],
    )
    assert [learning_rate(config, step) for step in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])
    assert learning_rate(config, 10) == pytest.approx(1)
    assert learning_rate(config, 60) == pytest.approx(0.6)
    assert learning_rate(config, 35) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(config, 110) == pytest.approx(0.2)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_learning_rate_scales_only_when_told(rule: str, factor: float) -> None:
    overrides = ["train.batch_size=96", "optimizer.schedule=constant", "optimizer.warmup_steps=0"]
    overrides += [f"optimizer.scale_learning_rate={rule}", "optimizer.learning_rate=0.5"]
    overrides += ["optimizer.base_batch_size=24"] if rule != "none" else []
    assert learning_rate(load_config(None, overrides), 3) == pytest.approx(0.5 * factor)


def test_adam_adds_decay_to_the_gradient_of_weights_only() -> None:
    model = torch.nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(2.0)
    config = load_config(None, ["optimizer.learning_rate=0.1", "optimizer.weight_decay=0.5"]).optimizer
    optimizer = build_optimizer(config, model.parameters())
    model.weight.grad, model.bias.grad = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    optimizer.step()
    # Adam's first step is lr·g/(|g| + eps) with g = 0 + 0.5·2 for the weight, and 0 for the bias.
    assert model.weight.item() == pytest.approx(2 - 0.1 / (1 + 1e-8))
    assert model.bias.item() == 2.0


def test_adamw_decays_apart_from_the_gradient() -> None:
    model = torch.nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
    overrides = ["optimizer.name=adamw", "optimizer.learning_rate=0.1", "optimizer.weight_decay=0.5"]
    optimizer = build_optimizer(load_config(None, overrides).optimizer, model.parameters())
    model.weight.grad, model.bias.grad = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2 * (1 - 0.1 * 0.5))


def test_sgd_has_momentum() -> None:
    model = torch.nn.Linear(1, 1).double()
    with torch.no_grad():
        model.bias.fill_(0.0)
    config = load_config(None, ["optimizer.name=sgd", "optimizer.learning_rate=1", "optimizer.momentum=0.5"]).optimizer
    optimizer = build_optimizer(config, model.parameters())
    for _ in range(2):
        model.bias.grad = torch.ones_like(model.bias)
        optimizer.step()
    assert model.bias.item() == pytest.approx(-1 - 1.5)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (["name=adam"], torch.optim.Adam),
        (["name=adamw"], torch.optim.AdamW),
        (["name=sgd", "momentum=0.9"], torch.optim.SGD),
    ],
)
def test_steps_and_state_are_those_of_torchs_own(settings: list[str], kind: type[torch.optim.Optimizer]) -> None:
    config = load_config(None, [f"optimizer.{setting}" for setting in settings]).optimizer
    own_model, model = (torch.nn.Linear(3, 2) for _ in range(2))
    model.load_state_dict(own_model.state_dict())
    own = build_optimizer(config, own_model.parameters())
    assert isinstance(own, kind)
    options = {key: value for key, value in own.defaults.items() if key in inspect.signature(kind).parameters}
    groups = [
        {**group, "params": [parameter]} for group, parameter in zip(own.param_groups, model.parameters(), strict=True)
    ]
    torchs = kind(groups, **options)
    for step in range(4):
        if step == 2:
            own.load_state_dict(own.state_dict())
            torchs.load_state_dict(torchs.state_dict())
        for optimizer, network in ((own, own_model), (torchs, model)):
            optimizer.zero_grad()
            network(torch.ones(5, 3)).square().sum().backward()
            optimizer.step()
    assert own.state_dict()["param_groups"] == torchs.state_dict()["param_groups"]
    for mine, right in zip(own_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, right)
        assert own.state[mine].keys() == torchs.state[right].keys()
        assert all(torch.equal(value, torchs.state[right][key]) for key, value in own.state[mine].items())


def test_first_step_does_not_import_the_compiler(python: Launcher) -> None:
    script = """
import sys, torch
from hvd_r2n2.config import load_config
from hvd_r2n2.models import create_model
from hvd_r2n2.training.optimizer import build_optimizer
model = create_model("3d-gru-1", width=1 / 32)
optimizer = build_optimizer(load_config(None, []).optimizer, model.parameters())
optimizer.zero_grad()
model(torch.zeros(1, 1, 3, 127, 127)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = python("-c", script)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("batch", "ranks", "parts", "nearest"),
    [(24, 5, 1, "use 20 or 25"), (2, 3, 1, "use 3"), (24, 2, 8, "use 16 or 32")],
)
def test_uneven_batch_is_an_error_with_the_nearest_even_ones(batch: int, ranks: int, parts: int, nearest: str) -> None:
    config = load_config(None, [f"train.batch_size={batch}", f"train.accumulation={parts}"])
    with pytest.raises(ValueError, match=nearest):
        share_of_batch(config, ranks)
    assert share_of_batch(load_config(None, ["train.batch_size=24"]), 4) == 6
