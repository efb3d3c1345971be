"""The averager against hand-computed means, with ranks played by a recording communicator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hvd_r2n2.comm import Alone, GradientAverager


class Recording(Alone):
    """Plays one of two ranks: the other one's gradients are all 10."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []
        self.waited = 0

    def average_async(self, tensor: torch.Tensor, name: str) -> Any:
        assert tensor.is_contiguous()
        self.started.append(name)
        tensor.add_(10).div_(2)
        return name

    def wait(self, handle: Any) -> None:
        self.waited += 1


def test_gradients_are_sent_once_after_the_last_micro_batch() -> None:
    model = torch.nn.Linear(2, 1)
    ranks = Recording()
    averager = GradientAverager(model.named_parameters(), ranks)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert ranks.started == []
    averager.arm()
    model(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert sorted(ranks.started) == ["bias", "weight"]
    averager.finish()
    assert ranks.waited == 2
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[(4 + 10) / 2, (6 + 10) / 2]]
    averager.close()


def test_gradients_start_while_backward_still_runs() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    ranks = Recording()
    averager = GradientAverager(model.named_parameters(), ranks)
    seen: list[list[str]] = []
    inputs = torch.ones(1, 2, requires_grad=True)
    inputs.register_hook(lambda _: seen.append(list(ranks.started)))
    hidden = model[0](inputs)
    hidden.register_hook(lambda _: seen.append(list(ranks.started)))
    averager.arm()
    model[1](hidden).sum().backward()
    assert {"1.weight", "1.bias"} >= set(seen[0])
    assert seen[0], "nothing was sent before the first layer's backward began"
    averager.finish()
    averager.close()


def test_parameter_without_a_gradient_counts_as_zero() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(1, 1), "unused": torch.nn.Linear(1, 1)})
    ranks = Recording()
    averager = GradientAverager(model.named_parameters(), ranks)
    averager.arm()
    model["used"](torch.ones(1, 1)).sum().backward()
    averager.finish()
    assert sorted(ranks.started) == ["unused.bias", "unused.weight", "used.bias", "used.weight"]
    assert model["unused"].weight.grad.item() == 5  # type: ignore[union-attr]
    averager.close()


def test_gradient_in_another_memory_layout_is_made_contiguous() -> None:
    conv = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    averager = GradientAverager(conv.named_parameters(), Recording())
    averager.arm()
    conv(torch.ones(1, 2, 5, 5).to(memory_format=torch.channels_last)).sum().backward()
    averager.finish()
    averager.close()


def test_second_backward_after_arm_is_our_own_mistake() -> None:
    model = torch.nn.Linear(1, 1)
    averager = GradientAverager(model.named_parameters(), Recording())
    averager.arm()
    model(torch.ones(1, 1)).sum().backward()
    with pytest.raises(AssertionError, match="a second backward pass"):
        model(torch.ones(1, 1)).sum().backward()
    averager.close()
