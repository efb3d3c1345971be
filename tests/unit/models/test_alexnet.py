"""AlexNet: sizes, what crosses, normalisation, dropout, parts of stages, initial weights and errors."""

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.models import ClassificationNetwork, create_model, load_weights, save_weights
from hvd_r2n2.models.response_norm import local_response_norm
from tests.parts import bounds, row_axes
from tests.unit.models.narrowing import assert_parts_make_the_whole, stage_inputs

TINY = 1 / 16  # 6, 16, 24, 24 and 16 channels, 256 features
AS_PUBLISHED = ("conv3", "fc6", "fc7", "fc8")


def images(batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, 3, 227, 227, dtype=dtype, generator=torch.Generator().manual_seed(0))


def masks(model: ClassificationNetwork, batch: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 2 * torch.randint(0, 2, (batch, count), generator=generator).to(dtype)
        for name, count in model.options.dropout_masks.items()
    }


def lively(**settings: object) -> ClassificationNetwork:
    """Make a small network in float64 with weights at which every activation matters."""
    model = create_model("alexnet", num_classes=6, **({"width": TINY} | settings)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            std = 0.5 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5
            parameter.normal_(0, std, generator=generator)
        model.get_submodule("conv1").weight.mul_(20)  # so that the normalisation bends
    return model


@pytest.mark.parametrize(
    ("cross", "count"),
    [
        ("default", 60_965_224),
        (AS_PUBLISHED, 60_965_224),
        (None, 62_378_344),
        (("conv2", "conv4", *AS_PUBLISHED), None),
    ],
)
def test_parameter_count_is_the_papers(cross: tuple[str, ...] | None, count: int | None) -> None:
    layers = {  # outputs, inputs of one, and whether the published towers halve these
        "conv1": (96, 3 * 121),
        "conv2": (256, 96 * 25),
        "conv3": (384, 256 * 9),
        "conv4": (384, 384 * 9),
        "conv5": (256, 384 * 9),
        "fc6": (4096, 256 * 36),
        "fc7": (4096, 4096),
        "fc8": (1000, 4096),
    }
    crossing = layers if cross is None else ("conv1", *(AS_PUBLISHED if cross == "default" else cross))
    by_hand = sum(
        outputs * (inputs if name in crossing else inputs // 2) + outputs for name, (outputs, inputs) in layers.items()
    )
    found = sum(parameter.numel() for parameter in create_model("alexnet", cross=cross).parameters())
    assert found == by_hand
    assert count in (found, None)


def test_sides_and_names_are_the_papers() -> None:
    model = create_model("alexnet", width=TINY, num_classes=13)
    stages = model.stages()
    assert [stage.name for stage in stages] == [
        *("conv1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    ]
    assert {stage.views for stage in stages} == {"none"}
    tensors = run_stages(stages, {"images": images(2)} | masks(model, 2), [s.outputs[0].name for s in stages])
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    assert shapes == {
        "conv1": (6, 55, 55),
        "norm1": (6, 27, 27),
        "conv2": (16, 27, 27),
        "norm2": (16, 13, 13),
        "conv3": (24, 13, 13),
        "conv4": (24, 13, 13),
        "conv5": (16, 6, 6),
        "fc6": (256,),
        "fc7": (256,),
        "logits": (13,),
    }
    reads = {stage.name: stage.inputs[0].channels for stage in stages}
    assert {name for name, channels in reads.items() if channels == "all"} == {"conv1", *AS_PUBLISHED}


def test_the_network_is_the_papers_layer_by_layer() -> None:
    model = lively()
    state, masked = model.state_dict(), masks(model, 2, torch.float64)
    assert sorted(state) == sorted(f"{name}.{key}" for name in CONVS | DENSE for key in ("weight", "bias"))
    x = images(2, torch.float64)
    for name, (groups, stride, padding) in CONVS.items():
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding, groups=groups).relu()
        if name in ("conv1", "conv2"):
            x = torch.cat([F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in x.chunk(2, dim=1)], dim=1)
        if name in ("conv1", "conv2", "conv5"):
            x = F.max_pool2d(x, 3, 2)
    x = x.flatten(1)
    undropped = x
    for name, mask in (("fc6", "dropout6"), ("fc7", "dropout7")):
        x, undropped = (F.linear(y, state[f"{name}.weight"], state[f"{name}.bias"]).relu() for y in (x, undropped))
        x = x * masked[mask]
    expected, expected_undropped = (F.linear(y, state["fc8.weight"], state["fc8.bias"]) for y in (x, undropped))
    torch.testing.assert_close(model(images(2, torch.float64), masked), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(model(images(2, torch.float64)), expected_undropped, rtol=0, atol=1e-11)


CONVS = {"conv1": (1, 4, 0), "conv2": (2, 1, 2), "conv3": (1, 1, 1), "conv4": (2, 1, 1), "conv5": (2, 1, 1)}
DENSE = dict.fromkeys(("fc6", "fc7", "fc8"))


def normalised_by_hand(inputs: Tensor, groups: int) -> Tensor:
    """b_i = a_i / (2 + 10⁻⁴ Σ_j a_j²)^¾, j the up to five channels around i of its group."""
    outputs = torch.empty_like(inputs)
    size = inputs.shape[1] // groups
    for channel in range(inputs.shape[1]):
        first = channel // size * size
        around = range(max(first, channel - 2), min(first + size - 1, channel + 2) + 1)
        total = sum(inputs[:, j] ** 2 for j in around)
        outputs[:, channel] = inputs[:, channel] / (2 + 1e-4 * total) ** 0.75
    return outputs


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2])
def test_normalisation_by_hand(groups: int, memory_format: torch.memory_format) -> None:
    inputs = 100 * torch.randn(2, 12, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = inputs.contiguous(memory_format=memory_format)
    outputs = local_response_norm(inputs, groups)
    torch.testing.assert_close(outputs, normalised_by_hand(inputs, groups), rtol=1e-13, atol=0)
    halves = [F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in inputs.chunk(groups, dim=1)]
    torch.testing.assert_close(outputs, torch.cat(halves, dim=1), rtol=1e-13, atol=0)
    assert outputs.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 1), (4, 2), (9, 1)])
def test_normalisation_has_the_right_gradient(channels: int, groups: int) -> None:
    inputs = 100 * torch.randn(2, channels, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: local_response_norm(x, groups), (inputs.requires_grad_(),))


def test_normalisation_of_float32_and_bfloat16() -> None:
    inputs = 100 * torch.rand(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = normalised_by_hand(inputs.double(), 1)
    torch.testing.assert_close(local_response_norm(inputs).double(), expected, rtol=1e-6, atol=0)
    rounded = local_response_norm(inputs.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), expected, rtol=2e-2, atol=0)


Case = tuple[tuple[Stage, ...], dict[str, Tensor]]


@cache
def case(cross: tuple[str, ...] | None) -> Case:
    model = lively(cross=cross)
    return model.stages(), stage_inputs(model, {"images": images(2, torch.float64)} | masks(model, 2, torch.float64))


@pytest.mark.parametrize("cross", [AS_PUBLISHED, (), ("norm1", "conv5", "fc8"), None])
def test_parts_by_channels_make_the_whole(cross: tuple[str, ...] | None) -> None:
    stages, values = case(cross)
    for stage in stages:
        grouped = any(read.channels == "group" for read in stage.inputs)
        named = cross is None or stage.name in ("conv1", *cross)
        assert grouped != named, stage.name
        for parts in (2,) if grouped else (2, 3):
            assert_parts_make_the_whole(stage, values, "C", parts)


def test_a_dropped_feature_of_fc6_moves_no_weight_of_fc7() -> None:
    model = lively()
    given = masks(model, 1, torch.float64)
    given["dropout6"][0, 3] = 0
    model(images(1, torch.float64), given).square().sum().backward()
    gradient = model.get_submodule("fc7").weight.grad
    dropped = given["dropout6"][0] == 0
    assert torch.equal(gradient[:, dropped], torch.zeros_like(gradient[:, dropped]))
    assert gradient[:, ~dropped].abs().max() > 0


def test_towers_that_never_cross_are_two_half_networks() -> None:
    model = lively(cross=[], width=2 * TINY)
    x, masked = images(2, torch.float64), masks(model, 2, torch.float64)
    logits = model(x, masked)
    halves = []
    for tower in range(2):
        half = create_model("alexnet", width=TINY, num_classes=3, cross=None).double()
        rows = {}
        for layer, module in model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                (size,) = row_axes(module).values()
                start, end = bounds(size, tower, 2)
                rows[f"{layer}.{key}"] = parameter[start:end]
        given = {name: mask.chunk(2, dim=1)[tower] for name, mask in masked.items()}
        halves.append(torch.func.functional_call(half, rows, (x, given)))
    expected = torch.cat(halves, dim=1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(logits.square().sum(), list(parameters.values()))
    wanted = torch.autograd.grad(expected.square().sum(), list(parameters.values()))
    for name, gradient, result in zip(parameters, gradients, wanted, strict=True):
        assert (gradient - result).abs().max() < 1e-12 * max(1, float(result.abs().max())), name


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_initial_weights_are_the_papers_and_larger_in_a_narrow_network(width: float) -> None:
    model = create_model("alexnet", width=width, num_classes=13, seed=3)
    ones = {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    for name, parameter in model.named_parameters():
        values = parameter.detach().double()
        if name.endswith("weight"):
            expected = 0.01 if name == "conv1.weight" else 0.01 / width**0.5
            assert values.std().item() == pytest.approx(expected, rel=5 / (2 * values.numel()) ** 0.5), name
        else:
            assert torch.equal(values, torch.full_like(values, float(name in ones))), name


def test_a_file_knows_its_towers_and_classes(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    settings = {"width": TINY, "num_classes": 6}
    model = create_model("alexnet", seed=1, **settings)
    save_weights(model, path)
    again = create_model("alexnet", seed=2, cross=("fc8", "fc7", "fc6", "conv3"), **settings)
    load_weights(again, path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"cross '\[conv3,fc6,fc7,fc8\]' \(this network: 'null'\)"):
        load_weights(create_model("alexnet", cross=None, **settings), path)
    with pytest.raises(ValueError, match=r"num_classes '6' \(this network: '7'\)"):
        load_weights(create_model("alexnet", width=TINY, num_classes=7), path)
    with pytest.raises(ValueError, match="network 'alexnet'"):
        load_weights(create_model("3d-gru-1", width=TINY), path)


def test_bf16_autocast_gives_logits_and_gradients_near_float32() -> None:
    model = lively().float()
    x, masked = images(2), masks(model, 2)
    expected = model(x, masked)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x, masked)
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross": ["conv6"]}, "unknown stage in cross 'conv6': did you mean 'conv"),
        ({"cross": ["conv1"]}, "conv1, which reads the whole image in any case: leave it out"),
        ({"cross": AS_PUBLISHED[:3], "num_classes": 13}, r"fc8 .*13 channels cannot be halved"),
        ({"width": 0.05}, "conv2 .*5 channels cannot be halved"),
        ({"num_classes": 1}, "num_classes 1 .*2 or more"),
    ],
)
def test_impossible_settings_are_told_what_would_be_right(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("alexnet", **({"width": TINY} | settings))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(1, 3, 224, 224), r"\(1, 3, 224, 224\) but B×3×227×227"),
        (torch.rand(3, 227, 227), "B×3×227×227"),
        (torch.rand(0, 3, 227, 227), "at least one sample"),
        (torch.zeros(1, 3, 227, 227, dtype=torch.uint8), "torch.uint8 but floats are needed"),
        (torch.rand(1, 3, 227, 227).double(), "torch.float64 but the network is torch.float32"),
    ],
)
def test_bad_images_are_told_what_would_be_right(bad: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("alexnet", width=TINY)(bad)
