"""CUDA graphs train what the same steps without them train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.training.engine import NotFiniteError, OneDevice
from hvd_r2n2.training.graphed import GraphedDevice
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.tasks import create_task
from tests.conftest import Launcher
from tests.gpu.marks import ON_GPU
from tests.short_runs import TRAIN, largest_difference, settings, weights

pytestmark = ON_GPU

VIEWS = (1, 2, 2, 1, 2, 1)
BATCH = 4


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The first GPU, whose convolutions give the same bits again."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield torch.device("cuda", 0)


def config_of(name: str, *more: str) -> Config:
    words = [f"model.name={name}", "model.width=0.0625", "train.dtype=float64", f"train.batch_size={BATCH}"]
    if name == "alexnet":
        words += ["model.num_classes=5"]
    return load_config(None, [*words, *more])


def engine_of(config: Config, device: torch.device) -> OneDevice:
    model = build_model(config.model, 0).to(device, weights_dtype(config.train.dtype))
    kind = GraphedDevice if config.train.cuda_graphs else OneDevice
    return kind(config, model, create_task(config).loss_stage(), Alone())


def pair_of(name: str, device: torch.device, *more: str) -> tuple[OneDevice, OneDevice]:
    """Return the same training without and with graphs."""
    without, with_graphs = config_of(name, *more), config_of(name, "train.cuda_graphs=true", *more)
    return engine_of(without, device), engine_of(with_graphs, device)


def batches(engine: OneDevice, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Return a batch for each of VIEWS, all different."""
    found = []
    for number, num_views in enumerate(VIEWS):
        config = load_config(None, [f"train.seed={number}", f"train.dtype={engine.config.train.dtype}"])
        found.append(random_inputs(config, engine.model, BATCH, num_views, device))
    return found


@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-12), ("adam", 1e-9)])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", ["3d-lstm-1", "res3d-gru-3", "alexnet"])
def test_steps_equal_those_without_graphs(
    name: str, accumulation: int, optimizer: str, tolerance: float, cuda: torch.device
) -> None:
    more = (f"train.accumulation={accumulation}", f"optimizer.name={optimizer}", "train.clip_norm=0.5")
    without, with_graphs = pair_of(name, cuda, *more)
    others = dict(without.model.named_parameters())
    for inputs in batches(without, cuda):
        expected, found = without.step(inputs, 1e-3), with_graphs.step(inputs, 1e-3)
        assert found.loss == pytest.approx(expected.loss, rel=tolerance)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=tolerance)
        for key, parameter in with_graphs.model.named_parameters():
            other = others[key]
            assert parameter.grad is not None
            assert other.grad is not None
            scale = other.grad.abs().max()
            assert (parameter.grad - other.grad).abs().max() <= tolerance * scale, f"gradient of {key}"
            assert (parameter - other).abs().max() <= tolerance, key
    assert isinstance(with_graphs, GraphedDevice)
    assert len(with_graphs._graphs._captured) == (1 if name == "alexnet" else len(set(VIEWS)))


def test_bfloat16_is_close_to_that_without_graphs(cuda: torch.device) -> None:
    without, with_graphs = pair_of("res3d-gru-3", cuda, "train.dtype=bfloat16")
    for inputs in batches(without, cuda):
        expected, found = without.step(inputs, 1e-4), with_graphs.step(inputs, 1e-4)
        assert found.loss == pytest.approx(expected.loss, rel=2e-2)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=0.2)


def test_optimizer_state_is_taken_over_from_steps_without_graphs(cuda: torch.device) -> None:
    without, with_graphs = pair_of("3d-gru-1", cuda)
    first, *others = batches(without, cuda)
    without.step(first, 1e-3)
    with_graphs.model.load_state_dict(without.model.state_dict())
    with_graphs.load_optimizer_tensors({key: t.clone() for key, t in without.optimizer_tensors().items()})
    for inputs in others:
        expected, found = without.step(inputs, 1e-3), with_graphs.step(inputs, 1e-3)
        assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    for parameter, other in zip(with_graphs.model.parameters(), without.model.parameters(), strict=True):
        assert (parameter - other).abs().max() <= 1e-9


def test_loss_that_is_not_finite_moves_no_weight_and_the_next_step_is_right(cuda: torch.device) -> None:
    without, with_graphs = pair_of("3d-gru-1", cuda)
    good = batches(without, cuda)[0]
    bad = good | {"images": good["images"] * float("nan")}
    with pytest.raises(NotFiniteError):
        with_graphs.step(bad, 1e-3)
    expected, found = without.step(good, 1e-3), with_graphs.step(good, 1e-3)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)


def test_memory_of_graphs_is_counted_in_every_step(cuda: torch.device) -> None:
    _, with_graphs = pair_of("3d-gru-1", cuda)
    inputs = batches(with_graphs, cuda)[0]
    with_graphs.step(inputs, 1e-3)
    (first,) = with_graphs.memory()
    with_graphs.step(inputs, 1e-3)
    (second,) = with_graphs.memory()
    assert first.saved > 0
    assert first.allocated is not None
    assert second.allocated is not None
    assert second.allocated >= first.allocated >= first.saved
    assert first.saved == first.allocated - first.weights - first.gradients - first.optimizer


def test_command_trains_with_graphs_and_goes_on(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    arguments = settings(
        tiny_data,
        train__device="cuda",
        train__cpu_threads="null",
        train__steps=8,
        checkpoint__every_steps=4,
        optimizer__schedule="constant",
    )
    graphs = ["--set", "train.cuda_graphs=true"]
    plain = python(*TRAIN, *arguments, "--out", tmp_path / "plain")
    whole = python(*TRAIN, *arguments, *graphs, "--out", tmp_path / "whole")
    half = python(*TRAIN, *arguments, *graphs, "--set", "train.steps=4", "--out", tmp_path / "half")
    resumed = python(*TRAIN, "--resume", "--set", "train.steps=8", "--out", tmp_path / "half")
    for done in (plain, whole, half, resumed):
        assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from step-00000004" in resumed.stdout
    assert largest_difference(weights(tmp_path / "whole", 8), weights(tmp_path / "plain", 8)) <= 1e-9
    assert largest_difference(weights(tmp_path / "half", 8), weights(tmp_path / "plain", 8)) <= 1e-9
