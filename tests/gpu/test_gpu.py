"""A GPU trains what the CPU trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.loader import Batch, move_ahead, prepare_batch, training_batches
from hvd_r2n2.models import create_model
from hvd_r2n2.training.engine import OneDevice
from hvd_r2n2.training.evaluation import evaluate
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.step import TrainingStep
from hvd_r2n2.training.task_reconstruction import ReconstructionTask
from tests.conftest import Launcher
from tests.gpu.marks import ON_GPU
from tests.short_runs import TRAIN, settings

pytestmark = ON_GPU

CPU = torch.device("cpu")
NETWORKS = ("3d-lstm-1", "3d-gru-1", "3d-gru-3", "res3d-gru-3")


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The first GPU, without TF32 (whose float32 has 10 bits) in its convolutions."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield torch.device("cuda", 0)


def config_of(name: str, dtype: str, *more: str) -> Config:
    words = [f"model.name={name}", "model.width=0.0625", f"train.dtype={dtype}", "train.batch_size=4"]
    return load_config(None, [*words, "train.max_views=2", "optimizer.name=sgd", *more])


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return open_dataset(load_config().data, tiny_data, 32, lambda text: None)


def read_batch(dataset: Dataset, config: Config, pin_for: torch.device | None = None) -> Batch:
    return read_batches(dataset, config, 1, pin_for)[0]


def read_batches(
    dataset: Dataset, config: Config, count: int, pin_for: torch.device | None, move_to: torch.device | None = None
) -> list[Batch]:
    with training_batches(
        dataset,
        indices=dataset.train,
        batch_size=config.train.batch_size,
        rank=0,
        size=1,
        seed=0,
        min_views=2,
        max_views=2,
        start_step=0,
        end_step=count,
        config=config.data,
        pin_for=pin_for,
    ) as batches:
        return list(batches if move_to is None else move_ahead(batches, move_to))


def one_step(
    config: Config, dataset: Dataset, device: torch.device
) -> tuple[float, float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return loss, gradient norm, and every gradient and weight after one step on a device."""
    model = build_model(config.model, 0).to(device, weights_dtype(config.train.dtype))
    task = ReconstructionTask(config)
    engine = OneDevice(config, model, task.loss_stage(), Alone())
    result = TrainingStep(config, task, engine, device).run(read_batch(dataset, config, pin_for=device))
    engine.close()
    gradients = {
        name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    weights = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    assert gradients.keys() == weights.keys()
    return result.loss, result.gradient_norm, gradients, weights


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", NETWORKS)
def test_step_in_float64_equals_that_of_the_cpu(name: str, form: str, dataset: Dataset, cuda: torch.device) -> None:
    config = config_of(name, "float64", f"model.form={form}")
    loss, norm, gradients, weights = one_step(config, dataset, cuda)
    expected_loss, expected_norm, expected_gradients, expected_weights = one_step(config, dataset, CPU)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert norm == pytest.approx(expected_norm, rel=1e-9)
    for parameter, expected in expected_gradients.items():
        scale = expected.abs().max()
        assert scale > 0, f"{parameter} gets no gradient"
        assert (gradients[parameter] - expected).abs().max() <= 1e-9 * scale, parameter
        assert torch.allclose(weights[parameter], expected_weights[parameter], rtol=1e-12, atol=1e-12), parameter


@pytest.mark.parametrize("name", NETWORKS)
def test_recomputing_activations_changes_no_number(name: str, dataset: Dataset, cuda: torch.device) -> None:
    kept = one_step(config_of(name, "float64"), dataset, cuda)
    recomputed = one_step(config_of(name, "float64", "train.recompute=true"), dataset, cuda)
    assert recomputed[0] == pytest.approx(kept[0], rel=1e-12)
    for parameter, expected in kept[2].items():
        assert (recomputed[2][parameter] - expected).abs().max() <= 1e-9 * expected.abs().max(), parameter


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_loss_in_lower_precision_is_close_to_float64(
    dtype: str, tolerance: float, dataset: Dataset, cuda: torch.device
) -> None:
    loss, norm, _, _ = one_step(config_of("res3d-gru-3", dtype), dataset, cuda)
    expected_loss, expected_norm, _, _ = one_step(config_of("res3d-gru-3", "float64"), dataset, CPU)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert norm == pytest.approx(expected_norm, rel=20 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_prepared_on_the_gpu_is_that_of_the_cpu(dtype: torch.dtype, dataset: Dataset, cuda: torch.device) -> None:
    config = config_of("3d-gru-1", "float32")
    batch = read_batch(dataset, config, pin_for=cuda)
    assert batch.pictures.pixels_P.is_pinned()
    images, occupancy = prepare_batch(batch, cuda, dtype)
    assert (images.device, occupancy.device, images.dtype) == (cuda, cuda, dtype)
    expected_images, expected_occupancy = prepare_batch(read_batch(dataset, config), CPU, dtype)
    assert torch.equal(occupancy.cpu(), expected_occupancy)
    # A division by 255 may round otherwise in the last bit.
    assert (images.cpu() - expected_images).abs().max() <= torch.finfo(dtype).eps


def test_batches_that_are_copied_ahead_arrive_whole_and_in_order(dataset: Dataset, cuda: torch.device) -> None:
    config = config_of("3d-gru-1", "float32")
    moved = read_batches(dataset, config, 5, pin_for=cuda, move_to=cuda)
    assert [batch.step for batch in moved] == [0, 1, 2, 3, 4]
    for batch, expected in zip(moved, read_batches(dataset, config, 5, pin_for=None), strict=True):
        assert batch.samples == expected.samples
        for there, here in zip(batch.tensors(), expected.tensors(), strict=True):
            assert there.device == cuda
            assert torch.equal(there.cpu(), here)


def test_command_trains_on_the_gpu_and_goes_on(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    arguments = settings(
        tiny_data,
        train__device="cuda",
        train__dtype="float32",
        train__steps=3,
        train__cpu_threads="null",
        optimizer__schedule="constant",
    )
    first = python(*TRAIN, *arguments, "--out", tmp_path / "run")
    assert first.returncode == 0, first.stderr
    assert ": cuda:0, " in first.stdout
    resumed = python(*TRAIN, "--resume", "--out", tmp_path / "run", "--set", "train.steps=5")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step-00000003" in resumed.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 5
    on_cpu = python(
        *TRAIN, "--resume", "--out", tmp_path / "run", "--set", "train.device=cpu", "--set", "train.steps=6"
    )
    assert on_cpu.returncode == 0, on_cpu.stderr
    assert "going on from step-00000005" in on_cpu.stdout


def test_evaluation_finds_what_it_finds_on_the_cpu(dataset: Dataset, cuda: torch.device) -> None:
    model = create_model("3d-gru-1", width=1 / 16, seed=3).double()
    found = {}
    for device in (CPU, cuda):
        how = {"num_views": 2, "thresholds": (0.3, 0.4, 0.5), "batch_size": 2, "dtype": "float64", "f_score": True}
        found[device] = evaluate(model.to(device), dataset, dataset.test, comm=Alone(), device=device, **how)
    for expected, record in zip(found[CPU].records, found[cuda].records, strict=True):
        assert record == replace(
            expected,
            cross_entropy=pytest.approx(expected.cross_entropy, rel=1e-9),
            average_precision=pytest.approx(expected.average_precision, rel=1e-9),
        )
