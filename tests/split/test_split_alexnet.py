"""AlexNet under the same strategies, and its scheme of 2012: two towers that meet in some layers only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.models import class_loss_stage, create_model
from hvd_r2n2.split import Plan, SplitNetwork

CPU = torch.device("cpu")
NUM_SAMPLES = 3


def inputs_of(width: float) -> dict[str, Tensor]:
    """Give random pictures, labels, and dropout masks of zeros and twos."""
    generator = torch.Generator().manual_seed(2)
    features = round(4096 * width)

    def mask() -> Tensor:
        return 2.0 * (torch.rand(NUM_SAMPLES, features, generator=generator) < 0.5).double()

    images = torch.rand(NUM_SAMPLES, 3, 227, 227, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (NUM_SAMPLES,), generator=generator)
    return {"images": images, "labels": labels, "dropout6": mask(), "dropout7": mask()}


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize(
    ("cross", "strategy"),
    [
        ("default", "kernel"),
        ("default", "pipeline"),
        ((), "kernel"),
        (("norm1", "conv3", "fc7"), "kernel"),
        (None, "kernel"),
        (None, "pipeline"),
    ],
    ids=str,
)
def test_two_devices_equal_one(cross: object, strategy: str, micro_batches: int) -> None:
    """With towers, one device computes convolutions of two groups: each device has one tower."""
    width = 1 / 16
    words = {} if cross == "default" else {"cross": cross}
    model = create_model("alexnet", width=width, num_classes=10, seed=1, **words).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # initial weights of 0.01 leave gradients too small to compare
            parameter.mul_(4 if name.endswith("weight") else 1)
    inputs, stages = inputs_of(width), (*model.stages(), class_loss_stage())
    loss = run_stages(stages, inputs, {"loss"})["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert expected.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 1e-9 for gradient in expected.values())
    model.zero_grad()
    plan = Plan(strategy, micro_batches=micro_batches, cut=("conv4",) if strategy == "pipeline" else ())
    with SplitNetwork(model, stages, plan, [CPU, CPU]) as split:
        result = split.gradients(inputs, lambda shard: None)
        torch.testing.assert_close(result.loss, loss.detach(), rtol=0, atol=1e-12)
        for shard in split.shards:
            whole = expected[shard.name]
            part = whole if shard.rows is None else shard.rows.of(whole)
            assert shard.leaf.grad is not None
            gradient = shard.leaf.grad.view(part.shape)
            torch.testing.assert_close(
                gradient,
                part,
                rtol=0,
                atol=1e-12 * max(1.0, float(whole.abs().max())),
                msg=lambda text, s=shard: f"{s.label}: {text}",
            )


def test_towers_exchange_nothing_where_they_do_not_cross() -> None:
    model = create_model("alexnet", width=1 / 16, num_classes=10, seed=1)
    stages = (*model.stages(), class_loss_stage())
    with SplitNetwork(model, stages, Plan("kernel"), [CPU, CPU]) as split:
        program = split.program(NUM_SAMPLES, 1)
    crossed = set()
    for call in program.calls:
        for key in call.reads():
            producer = program.producers.get(key)
            if producer is not None and program.calls[producer].piece.device != call.piece.device:
                crossed.add(call.piece.stages[0])
    assert crossed == {"conv3", "fc6", "fc7", "fc8", "loss"}


def test_volume_is_needed_for_slabs() -> None:
    model = create_model("alexnet", width=1 / 16, num_classes=10, seed=1)
    with pytest.raises(ValueError, match="spatial split: .* has no volume"):
        SplitNetwork(model, (*model.stages(), class_loss_stage()), Plan("spatial"), [CPU, CPU])
