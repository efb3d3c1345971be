"""Networks with two towers: against half networks computed by hand, sizes, initial weights, files and errors."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.models import Network, create_model, load_weights, save_weights
from tests.parts import row_axes, rows_of
from tests.unit.models.narrowing import call_axes

FIVE = ("3d-lstm-1", "3d-gru-1", "3d-lstm-3", "3d-gru-3", "res3d-gru-3")
WIDTH = 1 / 8  # every channel count is even, and half of it is that of a network of half the width


def random_biases(model: Network) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)


def tower_rows(model: Network, tower: int) -> dict[str, Tensor]:
    """Give a tower's half of every parameter's rows."""
    rows = {}
    for layer, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            axes = row_axes(module)
            rows[f"{layer}.{key}"] = rows_of(parameter, axes, "C" if "C" in axes else "F", tower, 2)
    return rows


def run_half(name: str, rows: dict[str, Tensor], images: Tensor, **settings: object) -> Tensor:
    """Run a network of half the width with these weights; of its last layer only one logit is a tower's."""
    half = create_model(name, width=WIDTH / 2, **settings).double()
    needed = half.state_dict()
    given = {
        key: tensor if tensor.shape == needed[key].shape else tensor.repeat(2, *[1] * (tensor.ndim - 1))
        for key, tensor in rows.items()
    }
    return torch.func.functional_call(half, given, (images,))[:, :1]


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", FIVE)
def test_towers_that_never_cross_are_two_half_networks(name: str, form: str) -> None:
    model = create_model(name, width=WIDTH, cross=[], form=form).double()
    random_biases(model)
    images = torch.rand(2, 1, 3, 127, 127, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    halves = torch.cat([run_half(name, tower_rows(model, tower), images, form=form) for tower in range(2)], dim=1)
    torch.testing.assert_close(logits, halves, rtol=0, atol=1e-12)
    weights = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad((logits * weights).sum(), list(parameters.values()))
    expected = torch.autograd.grad((halves * weights).sum(), list(parameters.values()))
    for key, gradient, wanted in zip(parameters, gradients, expected, strict=True):
        assert wanted.abs().max() > 1e-9, f"the gradient of {key} says nothing"
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


def test_the_first_tower_hears_of_the_second_where_it_crosses_and_nowhere_else() -> None:
    model = create_model("3d-gru-3", width=WIDTH, cross=("encoder.block5",)).double()
    stages = model.stages()[2:]
    made = {tensor.name: call_axes(stage, tensor) for stage in stages for tensor in stage.outputs}

    def first_tower(second_tower: float) -> dict[str, Tensor]:
        block2 = torch.ones(2, 1, 16, 33, 33, dtype=torch.float64)
        block2[:, :, 8:] = second_tower
        with torch.no_grad():
            tensors = run_stages(stages, {"block2": block2}, made)
        axes = {name: letters.index("C" if "C" in letters else "F") for name, letters in made.items()}
        return {name: tensor.narrow(axes[name], 0, tensor.shape[axes[name]] // 2) for name, tensor in tensors.items()}

    before, after = first_tower(1.0), first_tower(2.0)
    assert {name for name in made if torch.equal(before[name], after[name])} == {"block3", "block4"}


def test_layers_in_towers_have_half_the_weights_of_one_that_reads_all() -> None:
    whole = {name: parameter.shape for name, parameter in create_model("res3d-gru-3").named_parameters()}
    towers = create_model("res3d-gru-3", cross=["encoder.block3.b", "recurrence.projection"])
    crossing = ("encoder.block1.conv_a", "encoder.block3.conv_b", "encoder.block3.conv_c", "recurrence.projection")
    expected = 0
    for name, parameter in towers.named_parameters():
        shape = whole[name]
        if name.endswith("weight") and not name.startswith(crossing):
            shape = torch.Size([shape[0], shape[1] // 2, *shape[2:]])
        assert parameter.shape == shape, name
        expected += math.prod(shape)
    assert sum(parameter.numel() for parameter in towers.parameters()) == expected


@pytest.mark.parametrize("preset", ["released-code", "paper"])
def test_initial_weights_follow_from_the_fans_within_a_tower(preset: str) -> None:
    parameters = dict(create_model("res3d-gru-3", preset=preset, width=0.5, cross=["encoder.fc7"]).named_parameters())
    fans = {
        "encoder.block3.conv_a.weight": (9 * 32, 9 * 64),
        "encoder.fc7.weight": (1152, 512),
        "recurrence.projection.weight": (256, 2048),
        "recurrence.unit.gates.weight": (27 * 32, 27 * 32),
        "decoder.block9.conv_a.weight": (27 * 32, 27 * 16),
    }
    for name, (fan_in, fan_out) in fans.items():
        expected = math.sqrt(2 / ((fan_in + fan_out) / 2)) if preset == "released-code" else math.sqrt(2 / fan_in)
        weights = parameters[name].detach().double()
        assert weights.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * weights.numel())), name


def test_a_file_knows_its_towers(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    cross = ["encoder.fc7", "decoder.block10"]
    model = create_model("3d-gru-3", width=WIDTH, cross=cross, seed=1)
    save_weights(model, path)
    again = create_model("3d-gru-3", width=WIDTH, cross=reversed(cross), seed=2)
    load_weights(again, path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    for other, words in ((None, "null"), ([], r"\[\]"), (["decoder.block9"], r"\[decoder.block9\]")):
        with pytest.raises(ValueError, match=rf"cross '\[decoder.block10,encoder.fc7\]' \(this network: '{words}'\)"):
            load_weights(create_model("3d-gru-3", width=WIDTH, cross=other), path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross": ["decoder.block12"]}, "unknown stage in cross 'decoder.block12': did you mean 'decoder.block1"),
        ({"cross": ["encoder.block1"]}, "encoder.block1, which reads the whole image in any case: leave it out"),
        ({"cross": ["encoder.fc7", "encoder.fc7"]}, "names a stage twice"),
        ({"cross": "encoder.fc7"}, r"a list of stages is needed: cross = \[encoder.fc7\]"),
        ({"cross": [], "width": 0.18}, r"encoder.block2 .*17 channels cannot be halved .*cross = \[encoder.block2\]"),
    ],
)
def test_impossible_towers_are_told_what_would_be_right(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("3d-gru-3", **({"width": WIDTH} | settings))
