"""A stage's module as one part of a cut computes it, independently of the package's own split."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn
from torch.func import functional_call

from hvd_r2n2.common.stages import Stage


def bounds(size: int, part: int, parts: int) -> tuple[int, int]:
    """Give where a part begins and ends."""
    return size * part // parts, size * (part + 1) // parts


def row_axes(module: nn.Module) -> dict[str, int]:
    """Say what axis 0 of a module's own parameters counts."""
    if hasattr(module, "row_axes"):
        return dict(module.row_axes)
    assert isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear), module
    return {"F" if isinstance(module, nn.Linear) else "C": module.weight.shape[0]}


def rows_of(tensor: Tensor, axes: dict[str, int], letter: str, part: int, parts: int) -> Tensor:
    """Give a part's rows of a whole parameter; all of them where none of its axes is cut."""
    if letter not in axes:
        return tensor
    start, end = bounds(axes[letter], part, parts)
    rows = tensor.unflatten(0, tuple(axes.values())).narrow(list(axes).index(letter), start, end - start)
    return rows.flatten(0, len(axes) - 1)


def part_of(stage: Stage, axis: str, part: int, parts: int) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Give a stage's module as a part computes it that is cut by channels or features (axis C) or by planes (D).

    Its weights are views of the stage's own, which get their gradients.
    """
    module, weights = deepcopy(stage.module), dict(stage.module.named_parameters())
    for path, owner in module.named_modules():
        names = [f"{path}.{name}".lstrip(".") for name, _ in owner.named_parameters(recurse=False)]
        axes = row_axes(owner) if names else {}
        letter = "F" if axis == "C" and "C" not in axes else axis
        for name in names:
            weights[name] = rows_of(weights[name], axes, letter, part, parts)
        if letter in axes:
            start, end = bounds(axes[letter], part, parts)
            owner.row_axes = axes | {letter: end - start}
        if axis == "C" and getattr(owner, "groups", 1) > 1:
            assert owner.groups == parts
            owner.groups = 1
        if axis == "D" and hasattr(owner, "slab"):
            owner.slab = True
    if axis == "C" and hasattr(module, "channel_range") and stage.inputs[0].channels == "all":
        module.channel_range = bounds(module.num_channels, part, parts)
    return lambda *inputs: functional_call(module, weights, inputs)
