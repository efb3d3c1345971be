"""Run a part of a stage as its reads promise that it can be run, independently of the package's own split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common.stages import NamedTensor, Read, Stage, run_stages
from hvd_r2n2.models import Network
from tests.parts import bounds, part_of


def stage_inputs(model: Network, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor of a network's run, all of the batch; of tensors with views that a fold reads, all views."""
    stages = model.stages()
    names = {read.tensor.name for stage in stages for read in stage.inputs}
    names |= {tensor.name for stage in stages for tensor in stage.outputs}
    with torch.no_grad():
        return run_stages(stages, tensors, names)


def call_axes(stage: Stage, tensor: NamedTensor) -> str:
    """Give a tensor's axes in a call: a fold takes one view."""
    return tensor.axes.replace("V", "") if stage.views == "fold" else tensor.axes


def leaves(stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what the stage reads, by name, as leaves with gradients."""
    found = {}
    for read in stage.inputs:
        value = values[read.tensor.name]
        if stage.views == "fold" and "V" in read.tensor.axes:
            value = value[-1]
        found[read.tensor.name] = value.clone().requires_grad_()
    return found


def run_part(
    stage: Stage, inputs: dict[str, Tensor], axis: str, part: int, parts: int, *, absent: Sequence[str] = ()
) -> list[Tensor]:
    """Run a part of a stage cut by channels (axis C) or planes (D); its gradients go to inputs and parameters."""
    arguments = [
        None if read.tensor.name in absent else _piece(stage, read, inputs[read.tensor.name], axis, part, parts)
        for read in stage.inputs
    ]
    return run_module(part_of(stage, axis, part, parts), arguments)


def run_module(function: object, arguments: Sequence[Tensor | None]) -> list[Tensor]:
    """Call with copies that are not leaves and check that none of them is written to."""
    copies = [None if argument is None else argument.clone() for argument in arguments]
    versions = [None if copy is None else copy._version for copy in copies]
    results = function(*copies)  # type: ignore[operator]
    assert versions == [None if copy is None else copy._version for copy in copies], "an input was written to"
    return [results] if isinstance(results, Tensor) else list(results)


def _piece(stage: Stage, read: Read, value: Tensor, axis: str, part: int, parts: int) -> Tensor:
    """Give what a read says that a part needs, and no more."""
    axes = call_axes(stage, read.tensor)
    if axis == "C":
        letter = read.tensor.channel_axis
        if read.channels == "all" or letter is None:
            return value
        assert read.channels == "own" or parts == 2
        start, end = bounds(value.shape[axes.index(letter)], part, parts)
        return value.narrow(axes.index(letter), start, end - start)
    if "D" not in axes:
        return value
    dim = axes.index("D")
    before, after = read.planes
    start, end = bounds(value.shape[dim], part, parts)
    padding = [0, 0] * (value.ndim - dim - 1) + [before, after]
    return F.pad(value, padding).narrow(dim, start, end - start + before + after)


def assert_parts_make_the_whole(
    stage: Stage, values: dict[str, Tensor], axis: str, parts: int, *, absent: Sequence[str] = ()
) -> None:
    """Check outputs and every gradient of a stage's parts against the stage's own, in float64."""
    inputs = leaves(stage, values)
    variables = inputs | dict(stage.module.named_parameters())
    used = [name for name in variables if name not in absent]
    arguments = [None if read.tensor.name in absent else inputs[read.tensor.name] for read in stage.inputs]
    expected = run_module(stage.module, arguments)
    pieces = [run_part(stage, inputs, axis, part, parts, absent=absent) for part in range(parts)]
    outputs = []
    for number, tensor in enumerate(stage.outputs):
        letter = tensor.channel_axis if axis == "C" else "D"
        outputs.append(torch.cat([piece[number] for piece in pieces], dim=call_axes(stage, tensor).index(letter)))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in expected]
    for output, result in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, result, rtol=0, atol=1e-12, msg=lambda text: f"{stage.name}: {text}")
    gradients, wanted = (
        torch.autograd.grad(
            sum((w * r).sum() for w, r in zip(weights, results, strict=True)), [variables[name] for name in used]
        )
        for results in (outputs, expected)
    )
    for name, gradient, result in zip(used, gradients, wanted, strict=True):
        scale = max(1.0, float(result.abs().max()))
        assert (gradient - result).abs().max() < 1e-12 * scale, f"{stage.name}: gradient of {name}"
