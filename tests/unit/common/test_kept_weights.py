"""What layers make of weights: once while these stay as they are, anew otherwise, and never in the way of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.common import products
from hvd_r2n2.common.kept_weights import kept, kept_tensors, weights_stay
from hvd_r2n2.models import Network, create_model

NETWORKS = {"res3d-gru-3": (2, 1, 3, 127, 127), "3d-lstm-1": (1, 2, 3, 127, 127), "alexnet": (2, 3, 227, 227)}


@pytest.fixture(params=["bfloat16", "bfloat16 in float32", "float32"])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "bfloat16 in float32":
        monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: False)
    elif name == "bfloat16" and not products._cpu_has_bfloat16():
        pytest.skip("this CPU has nothing for bfloat16")
    return name.partition(" ")[0]


@contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        yield


def logits(model: Network, inputs: Tensor, dtype: str) -> Tensor:
    with torch.inference_mode(), arithmetic(dtype):
        result: Tensor = model(inputs)
    return result.clone()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_where_its_weights_stay_and_follows_them_afterwards(name: str, dtype: str) -> None:
    model = create_model(name, width=1 / 16).eval()
    inputs = torch.rand(NETWORKS[name], generator=torch.Generator().manual_seed(0))
    expected = logits(model, inputs, dtype)
    with weights_stay():
        found = [logits(model, inputs, dtype)]
        made = kept_tensors()
        found.append(logits(model, inputs, dtype))
        assert {tensor.data_ptr() for tensor in made} == {tensor.data_ptr() for tensor in kept_tensors()}
        matrices = [weight for weight in model.parameters() if weight.ndim > 1]
        assert dtype == "float32" or len(made) >= len(matrices)
        assert not any(tensor.is_inference() for tensor in made)
    assert all(torch.equal(one, expected) for one in found)
    assert kept_tensors() == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    moved = logits(model, inputs, dtype)
    assert not torch.equal(moved, expected)
    with weights_stay():
        assert torch.equal(logits(model, inputs, dtype), moved)


def test_gradients_reach_weights_that_stay(dtype: str) -> None:
    model = create_model("res3d-gru-3", width=1 / 16)
    inputs = torch.rand(NETWORKS["res3d-gru-3"], generator=torch.Generator().manual_seed(0))

    def gradients() -> list[Tensor]:
        with arithmetic(dtype):
            loss = model(inputs).float().square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    expected = gradients()
    with weights_stay():
        logits(model, inputs, dtype)
        found = gradients()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_weights_that_an_optimizer_moves_all_the_same_are_followed(dtype: str) -> None:
    inputs = torch.rand(NETWORKS["res3d-gru-3"], generator=torch.Generator().manual_seed(0))

    def losses() -> list[float]:
        model = create_model("res3d-gru-3", width=1 / 16, seed=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            with arithmetic(dtype):
                loss = model(inputs).float().square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses()
    assert len(set(expected)) == 3
    with weights_stay():
        assert losses() == expected


def test_kept_is_what_another_thread_made_until_the_last_block_ends() -> None:
    weight, calls = nn.Parameter(torch.ones(3)), []

    def make() -> Tensor:
        calls.append(torch.is_inference_mode_enabled())
        return weight + 1

    def use() -> None:
        with torch.inference_mode():
            kept(weight, "plus one", make)

    with weights_stay():
        with weights_stay():
            thread = Thread(target=use)
            thread.start()
            thread.join()
        use()
        assert calls == [False]
        with torch.no_grad():
            kept(weight, "another way", make)
            kept(weight.detach(), "plus one", make)
        assert len(calls) == 3
        assert len(kept_tensors()) == 2
    use()
    assert len(calls) == 4
