"""Sizes, shapes, stages, initial weights and errors of the five networks."""

import math
from itertools import chain

import pytest
import torch

from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.models import NETWORKS, ReconstructionNetwork, create_model

PUBLISHED_PARAMETERS = {
    "3d-lstm-1": 30_929_314,
    "3d-gru-1": 30_929_314,
    "3d-lstm-3": 32_207_266,
    "3d-gru-3": 32_207_266,
    "res3d-gru-3": 35_968_706,
}
TINY = 0.04


def images(num_views: int = 1, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(num_views, batch, 3, 127, 127, generator=torch.Generator().manual_seed(seed))


def test_the_five_networks_alexnet_and_no_other_are_known() -> None:
    assert set(NETWORKS) == {*PUBLISHED_PARAMETERS, "alexnet"}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_count_is_the_papers(name: str) -> None:
    model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[name]


def test_layers_have_the_papers_channels_and_kernels() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in create_model("res3d-gru-3").named_parameters()}
    assert shapes["encoder.block1.conv_a.weight"] == (96, 3, 7, 7)
    assert shapes["encoder.block1.conv_b.weight"] == (96, 96, 3, 3)
    assert shapes["encoder.block2.conv_c.weight"] == (128, 96, 1, 1)
    assert shapes["encoder.block5.conv_c.weight"] == (256, 256, 1, 1)
    without_skip_conv = {"encoder.block1.conv_c.weight", "encoder.block4.conv_c.weight", "encoder.block6.conv_c.weight"}
    assert not without_skip_conv & set(shapes)
    assert shapes["encoder.fc7.weight"] == (1024, 2304)
    assert shapes["recurrence.projection.weight"] == (3 * 8192, 1024)
    assert shapes["recurrence.unit.gates.weight"] == (2 * 128, 128, 3, 3, 3)
    assert shapes["recurrence.unit.candidate.bias"] == (128,)
    assert "decoder.block8.conv_c.weight" not in shapes
    assert shapes["decoder.block9.conv_c.weight"] == (64, 128, 1, 1, 1)
    assert shapes["decoder.block10.conv_c.weight"] == (32, 32, 3, 3, 3)
    assert shapes["decoder.block11.weight"] == (2, 32, 3, 3, 3)


def every_tensor(model: ReconstructionNetwork, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    stages = model.stages()
    return run_stages(stages, {"images": inputs}, [tensor.name for stage in stages for tensor in stage.outputs])


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_every_side_is_the_references(name: str, form: str) -> None:
    tensors = every_tensor(create_model(name, width=TINY, form=form), images(num_views=2))
    sides = {f"block{number}": side for number, side in enumerate((64, 33, 17, 9, 5, 3), start=1)}
    sides |= {"projections": 4, "hidden": 4, "block7": 8, "block8": 16, "block9": 32, "block10": 32, "logits": 32}
    for tensor, side in sides.items():
        shape = tensors[tensor].shape
        assert shape[-2:] == (side, side), tensor
        if tensor not in ("projections", *(f"block{number}" for number in range(1, 7))):
            assert shape[-3] == side, tensor
    assert tensors["features"].shape == (2, 1, round(1024 * TINY))
    if name == "res3d-gru-3":
        before_the_pool = [tensors[f"block{number}.a"].shape[-1] for number in range(1, 7)]
        assert before_the_pool == [127, 64, 33, 17, 9, 5]


@pytest.mark.parametrize("name", ["3d-lstm-1", "res3d-gru-3"])
@pytest.mark.parametrize("voxel_resolution", [32, 64, 128])
def test_logits_have_the_grids_resolution(name: str, voxel_resolution: int) -> None:
    model = create_model(name, width=TINY, voxel_resolution=voxel_resolution)
    with torch.no_grad():
        assert model(images()).shape == (1, 2, voxel_resolution, voxel_resolution, voxel_resolution)


def test_larger_grids_add_unpool_blocks_of_half_the_channels() -> None:
    def channels(resolution: int) -> dict[str, int]:
        model = create_model("res3d-gru-3", voxel_resolution=resolution)
        return {
            name.split(".")[1]: parameter.shape[0]
            for name, parameter in model.named_parameters()
            if name.startswith("decoder.block")
        }

    below = {"block7": 128, "block8": 128, "block9": 64}
    assert channels(32) == below | {"block10": 32, "block11": 2}
    assert channels(64) == below | {"block9_64": 32, "block10": 16, "block11": 2}
    assert channels(128) == below | {"block9_64": 32, "block9_128": 16, "block10": 8, "block11": 2}


def test_stages_are_a_convolution_deep_and_called_after_the_blocks() -> None:
    plain = [f"encoder.block{number}" for number in range(1, 7)] + ["encoder.fc7", "recurrence.projection"]
    plain_end = [f"decoder.block{number}" for number in range(7, 12)]
    gru = ["recurrence.unit.gates", "recurrence.unit.candidate"]
    halves = [[name] if name.endswith("block11") else [f"{name}.a", f"{name}.b"] for name in plain[:6] + plain_end]
    expected = {
        "3d-lstm-3": [*plain, "recurrence.unit", *plain_end],
        "3d-gru-3": [*plain, *gru, *plain_end],
        "res3d-gru-3": [*chain(*halves[:6]), *plain[6:], *gru, *chain(*halves[6:])],
    }
    for name, names in expected.items():
        assert [stage.name for stage in create_model(name, width=TINY).stages()] == names


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_stages_in_order_give_forward_and_hold_the_networks_parameters(name: str) -> None:
    model = create_model(name, width=TINY)
    inputs = images(num_views=3, batch=2)
    stages = model.stages()
    views = [stage.views for stage in stages]
    num_folds = 2 if "gru" in name else 1
    num_each = 14 if "res" in name else 8
    assert views == ["each"] * num_each + ["fold"] * num_folds + ["none"] * (9 if "res" in name else 5)
    assert torch.equal(run_stages(stages, {"images": inputs}, {"logits"})["logits"], model(inputs))
    stage_parameters = [id(parameter) for stage in stages for parameter in stage.module.parameters()]
    assert len(stage_parameters) == len(set(stage_parameters))
    assert set(stage_parameters) == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("name", ["3d-lstm-3", "res3d-gru-3"])
def test_stages_can_be_run_a_view_and_a_sample_at_a_time(name: str) -> None:
    model = create_model(name, width=TINY).double()
    inputs = images(num_views=3, batch=2).double()
    stages = model.stages()
    logits = []
    for sample in range(2):
        states: dict[str, torch.Tensor] = {}
        for view in range(3):
            tensors = {"images": inputs[view : view + 1, sample : sample + 1]} | states
            before_decoder = [stage for stage in stages if stage.views != "none"]
            states = run_stages(before_decoder, tensors, ("hidden", "cell") if "lstm" in name else ("hidden",))
        decoder = [stage for stage in stages if stage.views == "none"]
        logits.append(run_stages(decoder, states, {"logits"})["logits"])
    torch.testing.assert_close(torch.cat(logits), model(inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_views", [1, 2, 5, 24])
def test_any_number_of_views_gives_one_grid(num_views: int) -> None:
    model = create_model("3d-gru-3", width=TINY)
    with torch.no_grad():
        assert model(images(num_views)).shape == (1, 2, 32, 32, 32)


def test_the_order_of_views_matters_and_the_last_state_is_decoded() -> None:
    model = create_model("3d-gru-3", width=TINY)
    inputs = images(num_views=3)
    with torch.no_grad():
        assert not torch.allclose(model(inputs), model(inputs.flip(0)), atol=1e-7)
        assert not torch.allclose(model(inputs), model(inputs[:2]), atol=1e-7)


def test_gru_with_update_gate_open_keeps_its_state_zero() -> None:
    model = create_model("3d-gru-1", width=TINY).double()
    gates = model.get_submodule("recurrence.unit.gates")
    channels = gates.out_channels // 2
    unit = [stage for stage in model.stages() if stage.views == "fold"]
    projections = torch.randn(2, 1, 3, channels, 4, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        gates.bias[:channels] = 1000.0
        hidden = run_stages(unit, {"projections": projections}, {"hidden"})["hidden"]
    assert torch.equal(hidden, torch.zeros_like(hidden))


# Layer, its fan-in and fan-out counted by hand: kernel cells times channels, of one gate where fused.
FANS = {
    "encoder.block1.conv_a.weight": (49 * 3, 49 * 96),
    "encoder.block2.conv_c.weight": (96, 128),
    "encoder.block3.conv_a.weight": (9 * 128, 9 * 256),
    "encoder.fc7.weight": (2304, 1024),
    "recurrence.projection.weight": (1024, 8192),
    "recurrence.unit.gates.weight": (27 * 128, 27 * 128),
    "recurrence.unit.candidate.weight": (27 * 128, 27 * 128),
    "decoder.block9.conv_a.weight": (27 * 128, 27 * 64),
    "decoder.block9.conv_c.weight": (128, 64),
    "decoder.block10.conv_a.weight": (27 * 64, 27 * 32),
}


@pytest.mark.parametrize("preset", ["released-code", "paper"])
def test_initial_weights_are_normal_with_the_presets_deviation(preset: str) -> None:
    parameters = dict(create_model("res3d-gru-3", preset=preset, seed=3).named_parameters())
    for name, (fan_in, fan_out) in FANS.items():
        expected = math.sqrt(2 / ((fan_in + fan_out) / 2)) if preset == "released-code" else math.sqrt(2 / fan_in)
        weights = parameters[name].detach().double().flatten()
        count = weights.numel()
        assert weights.mean().abs() < 5 * expected / math.sqrt(count), name
        assert weights.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name
        assert (weights.abs() < expected).double().mean().item() == pytest.approx(0.6827, abs=2.5 / math.sqrt(count)), (
            name
        )
    for name, parameter in parameters.items():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.full_like(parameter, 0.1)), name


@pytest.mark.parametrize(("preset", "slope"), [("released-code", 0.01), ("paper", 0.1)])
def test_leaky_slope_is_the_presets(preset: str, slope: float) -> None:
    model = create_model("3d-gru-3", width=TINY, preset=preset)
    fc7 = model.get_submodule("encoder.fc7")
    with torch.no_grad():
        fc7.weight.zero_()
        fc7.bias.fill_(-1.0)
        features = fc7(torch.ones(1, 1, fc7.in_features // 9, 3, 3))
    torch.testing.assert_close(features, torch.full_like(features, -slope))


def states_equal(a: ReconstructionNetwork, b: ReconstructionNetwork) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    reference = create_model("res3d-gru-3", width=0.1, seed=7)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    torch.set_num_threads(torch.get_num_threads() + 1)
    again = create_model("res3d-gru-3", width=0.1, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert states_equal(reference, again)
    assert states_equal(reference, create_model("res3d-gru-3", width=0.1, seed=7, form="plain"))
    assert not states_equal(reference, create_model("res3d-gru-3", width=0.1, seed=8))


def test_weights_are_on_the_cpu_whatever_device_is_the_default() -> None:
    with torch.device("meta"):
        model = create_model("3d-gru-1", width=TINY)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert states_equal(model, create_model("3d-gru-1", width=TINY))


def test_width_scales_hidden_channels_but_not_inputs_and_outputs() -> None:
    shapes = {n: tuple(p.shape) for n, p in create_model("res3d-gru-3", width=0.01).named_parameters()}
    assert shapes["encoder.block1.conv_a.weight"] == (2, 3, 7, 7)
    assert shapes["encoder.block3.conv_a.weight"][:2] == (3, 2)
    assert shapes["encoder.fc7.weight"] == (10, 27)
    assert shapes["decoder.block9.conv_c.weight"] == (2, 2, 1, 1, 1)  # the skips stay those of the wide network
    assert shapes["decoder.block11.weight"][0] == 2


def test_bf16_autocast_gives_finite_logits_and_gradients_near_float32() -> None:
    model = create_model("res3d-gru-3", width=0.1)
    inputs = images(num_views=2)
    expected = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "res3d-gru3"}, "unknown network 'res3d-gru3': did you mean 'res3d-gru-3'"),
        ({"name": "3D-LSTM-1"}, "did you mean '3d-lstm-1'"),
        ({"name": "vgg"}, "unknown network 'vgg': .*known: .*3d-lstm-1"),
        ({"preset": "papers"}, "unknown preset 'papers': did you mean 'paper'"),
        ({"form": "quick"}, "unknown form 'quick'.*fast, plain"),
        ({"width": 0.0}, "width 0.0"),
        ({"width": math.nan}, "width nan"),
        ({"voxel_resolution": 48}, "voxel_resolution 48 .*32, 64 or 128"),
        ({"seed": -1}, "seed -1"),
        ({"num_classes": 13}, "num_classes 13 means nothing for 3d-gru-1 .*width, cross, preset, voxel_resolution"),
        ({"name": "alexnet", "voxel_resolution": 32}, "voxel_resolution 32 means nothing for alexnet"),
        ({"name": "alexnet", "preset": "paper"}, "preset 'paper' means nothing for alexnet"),
        ({"name": "alexnet", "form": "plain"}, "form 'plain' means nothing for alexnet"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**({"name": "3d-gru-1", "width": TINY} | settings))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(1, 3, 127, 127), r"images\[None\]"),
        (torch.rand(1, 1, 3, 137, 137), "137×137 pixels .*crop"),
        (torch.rand(1, 1, 3, 127, 126), "127×126 pixels"),
        (torch.rand(1, 1, 4, 127, 127), "4 channels .*no alpha"),
        (torch.rand(1, 1, 127, 127, 3), "channels last .*permute"),
        (torch.rand(0, 1, 3, 127, 127), "at least one view"),
        (torch.rand(3, 127, 127), "V×B×3×127×127"),
        (torch.zeros(1, 1, 3, 127, 127, dtype=torch.uint8), "torch.uint8 .*divide bytes by 255"),
        (torch.rand(1, 1, 3, 127, 127).double(), "torch.float64 but the network is torch.float32"),
    ],
)
def test_bad_images_are_told_what_would_be_right(bad: torch.Tensor, message: str) -> None:
    model = create_model("3d-gru-1", width=TINY)
    with pytest.raises(ValueError, match=message):
        model(bad)
