"""Every network under every strategy computes one device's outputs, loss, and each gradient, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.common.wide_linear import WideWork
from hvd_r2n2.models import create_model, voxel_loss_stage
from hvd_r2n2.split import Plan, SplitNetwork, SplitOptions

NETWORKS = ("3d-lstm-1", "3d-gru-1", "3d-lstm-3", "3d-gru-3", "res3d-gru-3")
CUTS = dict.fromkeys(NETWORKS, "decoder.block7") | {"res3d-gru-3": "recurrence.projection"}
CPU = torch.device("cpu")
NUM_SAMPLES, NUM_VIEWS = 4, 2


class Recording(nn.Module):
    """A loss that keeps what it is given; shared by all copies of the stage."""

    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the loss."""
        self.seen.append((logits.detach(), target))
        loss: Tensor = self.loss(logits, target)
        return loss


@dataclass(frozen=True)
class OneDevice:
    """A network and what it gives on one device."""

    model: nn.Module
    stages: tuple[Stage, ...]
    inputs: dict[str, Tensor]
    logits_BCDHW: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def on_one_device(name: str) -> OneDevice:
    """Run a small network on random pictures and grids."""
    model = create_model(name, width=1 / 16, seed=3).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(NUM_VIEWS, NUM_SAMPLES, 3, 127, 127, generator=generator, dtype=torch.float64)
    occupancy = (torch.rand(NUM_SAMPLES, 32, 32, 32, generator=generator) < 0.2).to(torch.uint8)
    inputs = {"images": images, "occupancy": occupancy}
    loss_stage = voxel_loss_stage()
    stages = (*model.stages(), replace(loss_stage, module=Recording(loss_stage.module)))
    values = run_stages(stages, inputs, {"loss", "logits"})
    values["loss"].backward()  # type: ignore[no-untyped-call]
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    model.zero_grad()
    return OneDevice(model, stages, inputs, values["logits"].detach(), values["loss"].detach(), gradients)


@pytest.fixture(scope="module", params=NETWORKS)
def one(request: pytest.FixtureRequest) -> OneDevice:
    """Each network in turn."""
    return on_one_device(request.param)


def check_equal(one: OneDevice, split: SplitNetwork, tolerance: float = 1e-12) -> None:
    """Run a step and compare outputs, loss and every gradient with one device's."""
    Recording.seen.clear()
    one.model.zero_grad()
    result = split.gradients(one.inputs, lambda shard: None)
    side = one.logits_BCDHW.shape[-1]
    num_seen = 0
    for logits, target in Recording.seen:
        sample, rest = divmod(target.storage_offset(), side**3)
        plane, count = rest // side**2, target.shape[1]
        expected = one.logits_BCDHW[sample : sample + len(target), :, plane : plane + count]
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
        num_seen += target.numel()
    runs = 2 if split.executor.options.recompute else 1
    assert num_seen == runs * one.inputs["occupancy"].numel()
    torch.testing.assert_close(result.loss, one.loss, rtol=0, atol=tolerance)
    found: set[str] = set()
    for shard in split.shards:
        whole = one.gradients[shard.name]
        expected = whole if shard.rows is None else shard.rows.of(whole)
        assert shard.leaf.grad is not None, shard.label
        actual = shard.leaf.grad.view(expected.shape)
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=tolerance, msg=lambda text, s=shard: f"{s.label}: {text}"
        )
        found.add(shard.name)
    assert found == one.gradients.keys()


def plan_of(strategy: str, one: OneDevice, micro_batches: int | tuple[int, ...], **more: int | str) -> Plan:
    """Give a plan over two devices."""
    cut = (CUTS[one.model.name],) if strategy == "pipeline" else ()  # type: ignore[index]
    return Plan(strategy, micro_batches=micro_batches, cut=cut, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["pipeline", "kernel", "spatial"])
def test_two_devices_equal_one(one: OneDevice, strategy: str, micro_batches: int) -> None:
    with SplitNetwork(one.model, one.stages, plan_of(strategy, one, micro_batches), [CPU, CPU]) as split:
        check_equal(one, split)


@pytest.mark.parametrize("devices", [1, 3, 4])
@pytest.mark.parametrize("strategy", ["pipeline", "kernel", "spatial"])
def test_other_numbers_of_devices_equal_one(strategy: str, devices: int) -> None:
    one = on_one_device("res3d-gru-3")
    if strategy == "pipeline":
        cut = ("encoder.block3.b", "recurrence.unit.gates", "decoder.block9.b")[: devices - 1]
        plan = Plan("pipeline", micro_batches=2, cut=cut, view_chunks=2)
    else:
        plan = Plan(strategy)
    if devices == 3 and strategy != "pipeline":
        with pytest.raises(ValueError, match=r"divi"):
            SplitNetwork(one.model, one.stages, plan, [CPU] * devices)
    elif devices == 4 and strategy == "kernel":
        with pytest.raises(ValueError, match=r"kernel split of .* over 4 devices: .* not divisible by 4"):
            SplitNetwork(one.model, one.stages, plan, [CPU] * devices)
    else:
        with SplitNetwork(one.model, one.stages, plan, [CPU] * devices) as split:
            check_equal(one, split)


@pytest.mark.parametrize(
    ("strategy", "schedule"),
    [("pipeline", "1f1b"), ("pipeline", "zero-bubble"), ("kernel", "1f1b"), ("spatial", "1f1b")],
)
def test_recomputed_activations_give_the_same(strategy: str, schedule: str) -> None:
    one = on_one_device("3d-lstm-3")
    options, plan = SplitOptions(recompute=True), plan_of(strategy, one, 2, schedule=schedule)
    with SplitNetwork(one.model, one.stages, plan, [CPU, CPU], options=options) as split:
        check_equal(one, split)


def test_uneven_micro_batches_and_chunks_of_views() -> None:
    one = on_one_device("3d-gru-3")
    for schedule in ("1f1b", "fill-drain", "zero-bubble"):
        plan = plan_of("pipeline", one, (1, 2, 1), view_chunks=2, schedule=schedule)
        with SplitNetwork(one.model, one.stages, plan, [CPU, CPU]) as split:
            check_equal(one, split)


def narrow(tensor: Tensor, sizes: Sequence[int], number: int, axis: int) -> Tensor:
    """Give a micro-batch of a tensor."""
    return tensor.narrow(axis, sum(sizes[:number]), sizes[number])


@pytest.mark.parametrize("schedule", ["1f1b", "zero-bubble"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pipeline_in_float32_has_the_very_bits_of_one_device(name: str, schedule: str) -> None:
    """With the same micro-batches, each added in turn."""
    torch.set_num_threads(1)
    model, sizes = create_model(name, width=1 / 16, seed=3), (2, 1, 1)
    double = on_one_device(name)
    stages = (*model.stages(), voxel_loss_stage())
    inputs = {"images": double.inputs["images"].float(), "occupancy": double.inputs["occupancy"]}
    work = WideWork()
    for number, size in enumerate(sizes):
        work.is_last = number == len(sizes) - 1
        images = narrow(inputs["images"], sizes, number, 1)
        occupancy = narrow(inputs["occupancy"], sizes, number, 0)
        with work.active():
            loss = run_stages(stages, {"images": images, "occupancy": occupancy}, {"loss"})["loss"]
            loss.backward(torch.full_like(loss, size / sum(sizes)))  # type: ignore[no-untyped-call]
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    plan = Plan("pipeline", micro_batches=sizes, cut=(CUTS[name],), schedule=schedule)
    with SplitNetwork(model, stages, plan, [CPU, CPU]) as split:
        split.gradients(inputs)
        for shard in split.shards:
            assert shard.leaf.grad is not None
            assert torch.equal(shard.leaf.grad, expected[shard.name]), shard.name
