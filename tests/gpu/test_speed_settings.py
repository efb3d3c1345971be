"""What makes a GPU fast: the host does not wait within a step, and float32 products are TF32 where that is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import load_config
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.loader import move_ahead
from hvd_r2n2.models import create_model
from hvd_r2n2.models.layers import SameConv3d
from hvd_r2n2.training.engine import OneDevice
from hvd_r2n2.training.graphed import GraphedDevice
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.precision import autocast, set_tf32, weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.task_reconstruction import ReconstructionTask
from tests.gpu.marks import ON_GPU

pytestmark = ON_GPU

CUDA = torch.device("cuda", 0)
STEPS = 8


@pytest.fixture
def sync_mode() -> Iterator[None]:
    """Lets a test make torch complain of waiting, and ends that."""
    before = torch.cuda.get_sync_debug_mode()
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.fixture
def tf32_switches() -> Iterator[None]:
    """Puts the switches back."""
    if not hasattr(torch.backends.cudnn, "fp32_precision"):
        pytest.skip(f"torch {torch.__version__} has only the older switches of TF32")
    matmul, conv, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn
    before, threads = (matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark), torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark = before


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("cuda_graphs", ["false", "true"])
def test_host_waits_once_a_step(cuda_graphs: str, optimizer: str, tiny_data: Path, sync_mode: None) -> None:
    config = load_config(
        None,
        [
            "model.width=0.0625",
            "train.dtype=bfloat16",
            "train.batch_size=4",
            "train.max_views=1",
            "train.accumulation=2",
            "train.clip_norm=1",
            f"train.steps={STEPS}",
            f"train.cuda_graphs={cuda_graphs}",
            f"optimizer.name={optimizer}",
        ],
    )
    task = ReconstructionTask(config)
    dataset = open_dataset(config.data, tiny_data, 32, lambda text: None)
    model = build_model(config.model, 0).to(CUDA)
    engine = (GraphedDevice if config.train.cuda_graphs else OneDevice)(config, model, task.loss_stage(), Alone())
    with task.training_batches(dataset, Alone(), CUDA, 0) as stream:
        batches = move_ahead(stream, CUDA)
        for _ in range(2):  # what is made and captured once may wait
            engine.step(task.prepare(next(batches), CUDA, torch.float32), 1e-4)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        inputs = task.prepare(next(batches), CUDA, torch.float32)
        engine._clear_gradients()
        engine._gradients(inputs)
        torch.cuda.set_sync_debug_mode("default")
        engine.averager.finish()
        for batch in batches:
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.step(task.prepare(batch, CUDA, torch.float32), 1e-4)
            torch.cuda.set_sync_debug_mode("default")
            waits = [str(one.message) for one in caught if "synchronizing" in str(one.message)]
            assert len(waits) == 1, waits
    engine.close()


def test_float32_products_are_tf32_only_where_that_is_wanted(tf32_switches: None) -> None:
    if torch.cuda.get_device_capability(CUDA) < (8, 0):
        pytest.skip(f"{torch.cuda.get_device_name(CUDA)} has no TF32")
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1024, 1024, generator=generator, dtype=torch.float64).to(CUDA)
    images = torch.randn(8, 64, 32, 32, generator=generator, dtype=torch.float64).to(CUDA)
    kernel = torch.randn(64, 64, 3, 3, generator=generator, dtype=torch.float64).to(CUDA)

    def errors() -> tuple[float, float]:
        """Return those of a product and of a convolution in float32, as a share of what is usual there."""
        product, expected = matrix.float() @ matrix.float(), matrix @ matrix
        convolved, expected_too = F.conv2d(images.float(), kernel.float()), F.conv2d(images, kernel)
        pairs = ((product, expected), (convolved, expected_too))
        first, second = (float((found - right).abs().mean() / right.abs().mean()) for found, right in pairs)
        return first, second

    set_tf32(False)
    exact, in_float64 = errors(), matrix @ matrix
    set_tf32(True)
    coarse = errors()
    assert max(exact) < 3e-5
    assert coarse[0] > 1e-4  # of a convolution cuDNN may find another kernel faster
    assert max(coarse) < 3e-3
    assert torch.equal(matrix @ matrix, in_float64)


@pytest.mark.parametrize("tf32", [True, False])
def test_placement_switches_tf32(tf32: bool, tf32_switches: None) -> None:
    config = load_config(None, ["train.device=cuda", f"train.tf32={str(tf32).lower()}"])
    assert place_rank(config, Alone(), lambda text: None).devices[0].type == "cuda"
    wanted = "tf32" if tf32 else "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == wanted
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_channels_are_innermost_throughout(dtype: str) -> None:
    model = create_model("res3d-gru-3", width=1 / 16).to(CUDA, weights_dtype(dtype))
    layouts: dict[str, bool] = {}

    def note(name: str, tensor: torch.Tensor) -> None:
        layout = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
        layouts[name] = tensor.is_contiguous(memory_format=layout)

    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Conv2d, SameConv3d)):
            module.register_forward_hook(
                lambda module, inputs, outputs, name=name: note(name, outputs)  # type: ignore[misc]
            )
    with torch.inference_mode(), autocast(dtype, CUDA):
        model(torch.rand(2, 3, 3, 127, 127, device=CUDA))
    assert layouts
    assert all(layouts.values()), layouts
