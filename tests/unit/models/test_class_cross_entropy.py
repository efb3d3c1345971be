"""The loss of a classification against hand-computed values, and both losses as stages."""

import math

import pytest
import torch

from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.models import (
    class_cross_entropy,
    class_loss_stage,
    create_model,
    voxel_cross_entropy,
    voxel_loss_stage,
)


def test_two_samples_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    first = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(-1)))
    loss = class_cross_entropy(logits, torch.tensor([1, 0], dtype=torch.uint8))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx((first + math.log(3)) / 2, rel=1e-14)


def test_computed_in_float32_at_least_even_under_autocast() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = class_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(class_cross_entropy(logits.double(), labels).item(), rel=1e-6)


@pytest.mark.parametrize(("logits", "labels"), [((2, 3), (3,)), ((2, 3), (2, 1)), ((0, 3), (0,)), ((2, 3, 1), (2,))])
def test_shapes_that_do_not_fit_are_named(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, number of classes\) and \(B,\)"):
        class_cross_entropy(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_the_loss_is_the_last_stage_of_both_kinds_of_networks() -> None:
    generator = torch.Generator().manual_seed(0)
    grids = create_model("3d-gru-1", width=0.04)
    inputs = {"images": torch.rand(1, 2, 3, 127, 127, generator=generator)}
    occupancy = torch.rand(2, 32, 32, 32, generator=generator) < 0.3
    loss = run_stages((*grids.stages(), voxel_loss_stage()), inputs | {"occupancy": occupancy}, {"loss"})["loss"]
    assert torch.equal(loss, voxel_cross_entropy(grids(inputs["images"]), occupancy))
    classes = create_model("alexnet", width=0.0625, num_classes=5)
    inputs = {"images": torch.rand(2, 3, 227, 227, generator=generator), "labels": torch.tensor([4, 0])}
    inputs |= {name: torch.full((2, count), 2.0) for name, count in classes.options.dropout_masks.items()}
    loss = run_stages((*classes.stages(), class_loss_stage()), inputs, {"loss"})["loss"]
    masks = {name: inputs[name] for name in ("dropout6", "dropout7")}
    assert torch.equal(loss, class_cross_entropy(classes(inputs["images"], masks), inputs["labels"]))
