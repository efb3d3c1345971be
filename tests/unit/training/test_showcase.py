"""What a run shows of its network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from hvd_r2n2.config import load_config
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.loader import evaluation_batches, prepare_batch
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.showcase import show_samples
from tests.tiny_data import write_tiny_data


class Witness(nn.Module):
    """Keeps its input and finds every voxel empty."""

    def forward(self, images_VBCHW: torch.Tensor) -> torch.Tensor:
        self.seen = images_VBCHW
        return torch.zeros(images_VBCHW.shape[1], 2, 32, 32, 32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_network_sees_what_evaluation_shows_it(dtype: str, tmp_path: Path) -> None:
    config = load_config(None, [f"train.dtype={dtype}", "evaluation.views=2", "log.pictures=3"])
    dataset = open_dataset(config.data, write_tiny_data(tmp_path, 5), 32, lambda text: None)
    shown: list[Any] = []
    log = SimpleNamespace(picture=lambda *picture: shown.append(picture), mesh=lambda *mesh: None)
    network, cpu = Witness(), torch.device("cpu")
    show_samples("test", network, dataset, dataset.test[:3], config, cpu, cast(RunLog, log), 7, threshold=0.5)
    with evaluation_batches(dataset, dataset.test[:3], 2, 3, 0, 1) as batches:
        images_VBCHW, _ = prepare_batch(next(batches), cpu, weights_dtype(dtype))
    assert [picture[:2] for picture in shown] == [(7, "test")]
    torch.testing.assert_close(network.seen, images_VBCHW, rtol=0, atol=0)
