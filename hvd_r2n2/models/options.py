"""The settings that make a network: what they mean, what is allowed, and the presets by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from hvd_r2n2.common.names import nearest_hint
from hvd_r2n2.common.stages import NUM_TOWERS
from hvd_r2n2.models.initialisation import StandardDeviation, msra_std, released_code_std

VOXEL_RESOLUTIONS = (32, 64, 128)
REWRITES = ("views", "unpool", "gates", "layout", "fused")
"""Ways to compute the same faster: all views as one batch; convolutions of unpooled grids as transposed ones; a
recurrent unit's gates in one convolution; channels innermost in memory; activations within convolutions (CPUs), and
less kept for backward (pools)."""


@dataclass(frozen=True)
class NetworkOptions:
    """Hold what makes any network but its name and its weights; checked when made.

    width: multiplies every hidden channel and feature count, never those of inputs and outputs.
    cross: names of stages. Given, the network has two towers, the halves of every layer's channels, and only these
        stages read both; the others read their own, but for the first, which reads the images (Krizhevsky et al. 2012).
        None: no towers.
    """

    width: float = 1.0
    cross: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.width) and 0 < self.width <= 16):
            raise ValueError(f"width {self.width} is not a factor for channel counts (use more than 0, at most 16)")
        if self.cross is not None and len(set(self.cross)) < len(self.cross):
            raise ValueError(f"cross names a stage twice: {', '.join(self.cross)}")

    @property
    def dropout_masks(self) -> dict[str, int]:
        """Give the names of the dropout masks that the network reads in training, and the features of each."""
        return {}

    def identity(self) -> dict[str, str]:
        """Give, as words without spaces, what the meaning of weights depends on: everything but the form."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "form"}
        crossing = "null" if self.cross is None else f"[{','.join(sorted(self.cross))}]"
        return {key: str(value) for key, value in values.items()} | {
            "width": repr(float(self.width)),
            "cross": crossing,
        }

    def scaled(self, num_channels: int) -> int:
        """Give a hidden channel count at this width: rounded, at least 2."""
        return max(2, round(num_channels * self.width))

    def groups(self, stage: str, *channels: int) -> int:
        """Give in how many groups the layers of a stage read: 2, tower by tower, or 1.

        Raises:
            ValueError: there are two groups but not all of these channel counts, of its inputs and outputs, are even.
        """
        if self.cross is None or stage in self.cross:
            return 1
        for count in channels:
            if count % NUM_TOWERS:
                raise ValueError(
                    f"{stage} of a network with two towers: {count} channels cannot be halved (use another width, or "
                    f"let the stage read both towers: cross = [{', '.join((*self.cross, stage))}])"
                )
        return NUM_TOWERS


@dataclass(frozen=True)
class Preset:
    """Hold what the paper of 3D-R2N2 and its released code do differently."""

    leaky_slope: float
    weight_std: StandardDeviation


PRESETS: dict[str, Preset] = {
    "released-code": Preset(leaky_slope=0.01, weight_std=released_code_std),
    "paper": Preset(leaky_slope=0.1, weight_std=msra_std),
}


@dataclass(frozen=True)
class ReconstructionOptions(NetworkOptions):
    """Hold what makes one of the networks of 3D-R2N2.

    voxel_resolution: side of the output grid: 32, 64 or 128.
    form: ``fast``, all `REWRITES`; ``plain``, none: the same function written as the paper reads, for reference; or
        some of them joined by +.
    """

    preset: str = "released-code"
    voxel_resolution: int = 32
    form: str = "fast"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("preset", self.preset, PRESETS)
        names = self.form.split("+")
        for name in names:
            check_known("form", name, ("fast", "plain", *REWRITES) if len(names) == 1 else REWRITES)
        if self.voxel_resolution not in VOXEL_RESOLUTIONS:
            raise ValueError(f"voxel_resolution {self.voxel_resolution} is not offered (use 32, 64 or 128)")

    @property
    def leaky_slope(self) -> float:
        """Give the slope of the leaky ReLUs for negative values."""
        return PRESETS[self.preset].leaky_slope

    @property
    def rewrites(self) -> frozenset[str]:
        """Give which of `REWRITES` the form has."""
        named = {"fast": REWRITES, "plain": ()}.get(self.form)
        return frozenset(self.form.split("+") if named is None else named)


@dataclass(frozen=True)
class ClassificationOptions(NetworkOptions):
    """Hold what makes a network that names classes.

    num_classes: the number of logits.
    """

    num_classes: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 2:
            raise ValueError(f"num_classes {self.num_classes} leaves nothing to tell apart (use 2 or more)")


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest known one unless the name is known."""
    names = list(known)
    if name in names:
        return
    hint = nearest_hint("did you mean {!r}? ", str(name).lower(), names)
    raise ValueError(f"unknown {kind} {name!r}: {hint}(known: {', '.join(names)})")
