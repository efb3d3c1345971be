"""Engines: whatever computes a step, weights and optimizer go on as on one device."""

from __future__ import annotations

import time
from itertools import cycle

import pytest
import torch
from torch import Tensor

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import load_config
from hvd_r2n2.models import create_model, voxel_loss_stage
from hvd_r2n2.split import Plan
from hvd_r2n2.training.engine import Engine, NotFiniteError, OneDevice
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.split_engine import SplitEngine

CPU = torch.device("cpu")
PLANS = {
    "none": None,
    "pipeline": Plan("pipeline", micro_batches=2, cut=("decoder.block7",), view_chunks=2),
    "kernel": Plan("kernel", micro_batches=2),
    "spatial": Plan("spatial"),
}


def build(way: str, *overrides: str, seed: int = 0) -> Engine:
    """Give an engine with a small network."""
    words = ["train.dtype=float64", "train.batch_size=4", "train.clip_norm=0.5", *overrides]
    config = load_config(None, words)
    model, plan = create_model("3d-gru-3", width=1 / 16, seed=seed).to(weights_dtype(config.train.dtype)), PLANS[way]
    if plan is None:
        return OneDevice(config, model, voxel_loss_stage(), Alone())
    return SplitEngine(config, model, voxel_loss_stage(), Alone(), plan, [CPU, CPU], 1)


def batch(step: int) -> dict[str, Tensor]:
    """Give a random batch of 2 views."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(2, 4, 3, 127, 127, generator=generator, dtype=torch.float64)
    return {"images": images, "occupancy": (torch.rand(4, 32, 32, 32, generator=generator) < 0.2).to(torch.uint8)}


def state_of(engine: Engine) -> dict[str, Tensor]:
    """Give all weights and the optimizer's state, copied."""
    engine.write_back()
    tensors = {**engine.optimizer_tensors(), **engine.model.state_dict()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Compare every tensor."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Tensor]]:
    """States of one device after each of 5 steps."""
    engine = build("none")
    states = []
    for step in range(5):
        engine.step(batch(step), 1e-3)
        states.append(state_of(engine))
    engine.close()
    return states


@pytest.mark.parametrize("way", ["pipeline", "kernel", "spatial"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_five_steps_move_weights_as_on_one_device(
    way: str, accumulation: int, expected: list[dict[str, Tensor]]
) -> None:
    engine = build(way, f"train.accumulation={accumulation}")
    for step in range(5):
        engine.step(batch(step), 1e-3)
    assert_same(expected[-1], state_of(engine))
    engine.close()


@pytest.mark.parametrize("way", ["pipeline", "kernel", "spatial"])
def test_tasks_of_all_micro_batches_are_timed_from_the_start_of_the_step(way: str) -> None:
    engine = build(way, "train.accumulation=2")
    start_s = time.perf_counter()
    tasks = engine.step(batch(0), 1e-3).tasks
    elapsed_s = time.perf_counter() - start_s
    engine.close()
    first, second = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]
    assert sorted(task.label for task in first) == sorted(task.label for task in second)
    assert max(task.end_s for task in first) <= min(task.start_s for task in second)
    assert all(0 <= task.start_s <= task.end_s <= elapsed_s for task in tasks)


@pytest.mark.parametrize("ways", [("none", "kernel", "spatial", "pipeline"), ("spatial", "none", "pipeline", "kernel")])
def test_state_goes_from_one_strategy_to_another(ways: tuple[str, ...], expected: list[dict[str, Tensor]]) -> None:
    state: dict[str, Tensor] | None = None
    for step, way in zip(range(5), cycle(ways), strict=False):
        engine = build(way, seed=9)  # other initial weights, which must not matter
        names = dict(engine.model.named_parameters())
        start = state or dict(create_model("3d-gru-3", width=1 / 16, seed=0).double().state_dict())
        engine.model.load_state_dict({name: start[name] for name in names})
        engine.take_up()
        engine.load_optimizer_tensors({name: t for name, t in start.items() if name not in names})
        engine.step(batch(step), 1e-3)
        state = state_of(engine)
        engine.close()
        assert_same(expected[step], state)


@pytest.mark.parametrize("way", ["none", "pipeline", "kernel", "spatial"])
def test_loss_that_is_not_finite_moves_nothing(way: str) -> None:
    engine = build(way)
    before = state_of(engine)
    bad = batch(0)
    bad["images"][0, 1] = float("nan")
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        engine.step(bad, 1e-3)
    assert_same(before, state_of(engine))
    engine.close()


@pytest.mark.parametrize("way", ["none", "pipeline", "kernel", "spatial"])
def test_recomputing_activations_changes_no_number_and_saves_memory(way: str) -> None:
    states, saved = [], []
    for recompute in ("false", "true"):
        engine = build(way, f"train.recompute={recompute}")
        engine.step(batch(0), 1e-3)
        states.append(state_of(engine))
        saved.append(sum(memory.saved for memory in engine.memory()))
        engine.close()
    assert_same(states[0], states[1])
    assert 0 < saved[1] < saved[0]


@pytest.mark.parametrize("way", ["none", "pipeline", "kernel", "spatial"])
def test_gradients_in_bfloat16_are_near(way: str) -> None:
    settings = ("train.clip_norm=1e9", "optimizer.name=sgd")
    exact, rounded = build("none", *settings), build(way, "train.dtype=bfloat16", *settings)
    images_and_target = batch(0)
    exact.step(images_and_target, 1e-3)
    rounded.step(images_and_target | {"images": images_and_target["images"].float()}, 1e-3)
    expected, found = state_of(exact), state_of(rounded)
    names = [name for name in expected if name.endswith(":momentum_buffer")]  # after one step, the gradients
    assert len(names) == len(list(exact.model.parameters()))
    for name in names:  # 0.1 at most when this was written, in all ways alike
        assert (found[name] - expected[name]).norm() <= 0.15 * expected[name].norm(), name
    for engine in (exact, rounded):
        engine.close()
