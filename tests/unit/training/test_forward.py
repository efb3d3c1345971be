"""The loss of a batch on one device: recomputed activations give the gradients of kept ones."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from hvd_r2n2.common.wide_linear import WideWork
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.models import Network
from hvd_r2n2.training.forward import mean_loss
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.tasks import create_task

CPU = torch.device("cpu")


def gradients(config: Config, model: Network, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run backward in a thread of its own, as autograd does for a GPU."""
    model.zero_grad()
    work = WideWork()
    work.is_last = True
    failed: list[BaseException] = []
    with work.active():
        loss = mean_loss(config, (*model.stages(), create_task(config).loss_stage()), inputs)

    def backward() -> None:
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    assert not failed
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["3d-gru-1", "3d-lstm-3", "res3d-gru-3", "alexnet"])
def test_recomputed_in_the_thread_of_backward(name: str) -> None:
    words = [f"model.name={name}", "model.width=0.0625", "train.dtype=float64"]
    words += ["model.num_classes=5"] if name == "alexnet" else []
    kept, recomputed = (load_config(None, [*words, f"train.recompute={value}"]) for value in ("false", "true"))
    model = build_model(kept.model, 0).double()
    inputs = random_inputs(kept, model, 2, 1 if name == "alexnet" else 2, CPU)
    expected = gradients(kept, model, inputs)
    found = gradients(recomputed, model, inputs)
    assert expected.keys() == found.keys() == dict(model.named_parameters()).keys()
    for weight, gradient in expected.items():
        assert torch.equal(found[weight], gradient), weight
