"""A second way to run a program: one thread and one autograd graph through all calls, for checking the first.

Nothing here is taken from the executor, from the exchange of parts or from the sharding of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.split.program import LOSS, Call, Fragment, Input, Key, Program, Range
from tests.parts import part_of
from tests.split.toys import one_device


def interpret(
    program: Program, stages: Sequence[Stage], inputs: Mapping[str, Tensor]
) -> tuple[Tensor, dict[Key, Tensor]]:
    """Give the loss of a step, ready for backward through everything, and every value by key."""
    by_name = {stage.name: stage for stage in stages}
    axes = {read.tensor.name: read.tensor.axes for stage in stages for read in stage.inputs}
    values: dict[Key, Tensor] = {}
    for call in program.calls:
        for entry in call.inputs:
            for fragment in entry.fragments:
                if fragment.key is not None and fragment.key not in program.producers:
                    values[fragment.key] = _network_input(program, fragment.key, inputs, axes)
    for call in program.calls:
        tensors = [_gathered(entry, values) for entry in call.inputs]
        results = _results(call, [by_name[name] for name in call.piece.stages], tensors)
        values.update(zip(call.outputs, results, strict=True))
    losses = [values[key] * call.weight for call in program.calls for key in call.outputs if key.tensor == LOSS]
    return torch.stack(losses).sum(), values


def assert_one_devices_numbers(
    program: Program, model: nn.Module, stages: tuple[Stage, ...], inputs: dict[str, Tensor]
) -> dict[Key, Tensor]:
    """Compare loss and every gradient of a program with those of one device; give the program's values by key."""
    loss, values = interpret(program, stages, inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected_loss, expected = one_device(model, stages, inputs, program.micro_batches)
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=0, atol=1e-12)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-12 * scale, msg=lambda m: f"{name}: {m}")  # noqa: B023
    return values


def _results(call: Call, stages: Sequence[Stage], tensors: Sequence[Tensor | None]) -> list[Tensor]:
    if axis := {"channels": "C", "planes": "D"}.get(call.piece.cut or ""):
        (stage,) = stages
        if stage.views == "fold":
            pairs = zip(call.inputs, tensors, strict=True)
            tensors = [t[0] if t is not None and "V" in entry.tensor.axes else t for entry, t in pairs]
        results = part_of(stage, axis, call.piece.part, call.piece.parts)(*tensors)
        return [results] if isinstance(results, Tensor) else list(results)
    named = {entry.tensor.name: t for entry, t in zip(call.inputs, tensors, strict=True) if t is not None}
    wanted = run_stages(stages, named, {key.tensor for key in call.outputs})
    return [wanted[key.tensor] for key in call.outputs]


def _network_input(program: Program, key: Key, inputs: Mapping[str, Tensor], axes: Mapping[str, str]) -> Tensor:
    tensor, letters = inputs[key.tensor], axes[key.tensor]
    samples = tensor.split(list(program.micro_batches), letters.index("B"))[key.micro_batch]
    return samples if "V" not in letters else samples.split(list(program.chunks), letters.index("V"))[key.chunk or 0]


def _gathered(entry: Input, values: Mapping[Key, Tensor]) -> Tensor | None:
    if not entry.fragments:
        return None
    axes = entry.tensor.axes
    parts = [None if f.key is None else _taken(f, axes, values[f.key]) for f in entry.fragments]
    known = next(part for part in parts if part is not None)
    for number, fragment in enumerate(entry.fragments):
        if fragment.key is None:
            assert isinstance(fragment.span, Range)
            assert fragment.axis == entry.axis
            shape = [fragment.span.length if a == entry.axis else n for a, n in zip(axes, known.shape, strict=True)]
            parts[number] = torch.zeros(shape, dtype=known.dtype)
    return (
        known
        if len(parts) == 1
        else torch.cat([part for part in parts if part is not None], axes.index(entry.axis or ""))
    )


def _taken(fragment: Fragment, axes: str, value: Tensor) -> Tensor:
    if fragment.axis is None:
        return value
    positions = range(value.shape[axes.index(fragment.axis)])
    if isinstance(fragment.span, Range):
        start = range(len(positions))[fragment.span.start]
        positions = positions[start : start + fragment.span.length]
        assert len(positions) == fragment.span.length
    else:
        assert fragment.span is not None
        part, parts = fragment.span.part, fragment.span.parts
        positions = positions[len(positions) * part // parts : len(positions) * (part + 1) // parts]
    return value.index_select(axes.index(fragment.axis), torch.tensor(positions))
