"""What the stages' reads promise: parts by channels and by planes make the whole, in outputs and gradients."""

from functools import cache

import pytest
import torch
from torch import Tensor

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.models import create_model
from tests.unit.models.narrowing import assert_parts_make_the_whole, call_axes, leaves, stage_inputs

FIVE = ("3d-lstm-1", "3d-gru-1", "3d-lstm-3", "3d-gru-3", "res3d-gru-3")

Case = tuple[tuple[Stage, ...], dict[str, Tensor]]


@cache
def case(name: str, form: str, cross: tuple[str, ...] | None = None) -> Case:
    """Give a network's stages and every tensor of a run; even channel counts where it has towers."""
    voxel_resolution = 64 if (name, form, cross) == ("3d-gru-1", "fast", None) else 32
    width = 0.05 if cross is None else 1 / 16
    model = create_model(name, width=width, form=form, voxel_resolution=voxel_resolution, cross=cross).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.rand(2, 2, 3, 127, 127, dtype=torch.float64, generator=generator)
    return model.stages(), stage_inputs(model, {"images": images})


def num_channels(stage: Stage, values: dict[str, Tensor]) -> int:
    output = stage.outputs[0]
    return values[output.name].shape[call_axes(stage, output).index(output.channel_axis)]


def missing_states(stage: Stage) -> list[list[str]]:
    """Give the states that may be absent: none, and those that the stage reads from the view before."""
    before = [read.tensor.name for read in stage.inputs if read.tensor.name in ("hidden", "cell")]
    return [[], sorted(set(before))] if stage.views == "fold" else [[]]


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", FIVE)
def test_parts_by_channels_make_the_whole(name: str, form: str) -> None:
    stages, values = case(name, form)
    for stage in stages:
        for absent in missing_states(stage):
            for parts in (2, 3) if num_channels(stage, values) > 2 else (2,):
                assert_parts_make_the_whole(stage, values, "C", parts, absent=absent)


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", FIVE)
def test_slabs_of_planes_make_the_whole(name: str, form: str) -> None:
    stages, values = case(name, form)
    cut = [stage for stage in stages if "D" in stage.outputs[0].axes]
    assert cut[0].name == "recurrence.projection"
    for stage in cut:
        for absent in missing_states(stage):
            for parts in (2, 4):
                assert_parts_make_the_whole(stage, values, "D", parts, absent=absent)


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", FIVE)
def test_towers_and_slabs_of_networks_with_towers_make_the_whole(name: str, form: str) -> None:
    stages, values = case(name, form, cross=("encoder.fc7",))
    for stage in stages:
        reaches = {read.channels for read in stage.inputs if read.channels != "own"}
        assert reaches == {"all" if stage.inputs[0].tensor.name == "images" or stage.name == "encoder.fc7" else "group"}
        for absent in missing_states(stage):
            assert_parts_make_the_whole(stage, values, "C", 2, absent=absent)
            if "D" in stage.outputs[0].axes:
                assert_parts_make_the_whole(stage, values, "D", 2, absent=absent)


def test_planes_read_are_those_of_the_kernels() -> None:
    planes = {
        (stage.name, read.tensor.name): (read.channels, read.planes)
        for stage in create_model("res3d-gru-3", width=0.05).stages()
        for read in stage.inputs
        if "D" in read.tensor.axes and read.tensor.name != "hidden"
    }
    assert planes["decoder.block7.b", "block7.a"] == ("all", (1, 1))
    assert planes["decoder.block8.a", "block7"] == ("all", (0, 1))
    assert planes["decoder.block8.b", "block7"] == ("own", (0, 0))
    assert planes["decoder.block9.b", "block8"] == ("all", (0, 0))
    assert planes["decoder.block11", "block10"] == ("all", (1, 1))
    assert planes["recurrence.unit.candidate", "reset_hidden"] == ("all", (1, 1))
    assert planes["recurrence.unit.candidate", "update"] == ("own", (0, 0))
    gates = next(s for s in create_model("3d-gru-1", width=0.05).stages() if s.name == "recurrence.unit.gates")
    assert [(read.tensor.name, read.channels, read.planes) for read in gates.inputs] == [
        ("projections", "own", (0, 0)),
        ("hidden", "all", (0, 0)),
        ("hidden", "own", (0, 0)),
    ]


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", ["3d-lstm-3", "3d-gru-1"])
def test_a_missing_state_is_zeros_and_leaves_gradients_of_zeros(name: str, form: str) -> None:
    stages, values = case(name, form)
    for stage in stages:
        if stage.views != "fold":
            continue
        inputs = leaves(stage, values)
        states = [read.tensor.name in ("hidden", "cell") for read in stage.inputs]
        given = [inputs[read.tensor.name] for read in stage.inputs]
        zeros, absent = (
            stage.module(*(missing if is_state else value for is_state, value in zip(states, given, strict=True)))
            for missing in (torch.zeros_like(inputs["hidden"]), None)
        )
        torch.testing.assert_close(absent, zeros, rtol=0, atol=0)
        outputs = absent if isinstance(absent, tuple) else (absent,)
        if "hidden" in [read.tensor.name for read in stage.inputs if read.channels == "all"]:
            weight = stage.module.gates.weight
            (gradient,) = torch.autograd.grad(sum(output.sum() for output in outputs), weight)
            assert torch.equal(gradient, torch.zeros_like(weight))


@pytest.mark.parametrize("name", FIVE)
def test_axes_are_those_of_the_tensors(name: str) -> None:
    stages, values = case(name, "fast")
    for stage in stages:
        for tensor in stage.outputs:
            axes = call_axes(stage, tensor)
            assert values[tensor.name].ndim == len(axes), tensor
