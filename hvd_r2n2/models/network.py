"""What every network of this room is, and the registries by name of networks and presets.

Shapes: V views, B batch, C H W an image's channels, rows, columns; 2 logits (empty, occupied) and D D D the
x, y, z of the grid.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from hvd_r2n2.models.initialisation import StandardDeviation, initialise, msra_std, released_code_std
from hvd_r2n2.models.stages import Stage, run_stages

IMAGE_SIDE = 127
IMAGE_CHANNELS = 3
VOXEL_RESOLUTIONS = (32, 64, 128)
FORMS = ("fast", "plain")


@dataclass(frozen=True)
class Preset:
    """Hold what the paper and its released code do differently in a network."""

    leaky_slope: float
    weight_std: StandardDeviation


PRESETS: dict[str, Preset] = {
    "released-code": Preset(leaky_slope=0.01, weight_std=released_code_std),
    "paper": Preset(leaky_slope=0.1, weight_std=msra_std),
}


@dataclass(frozen=True)
class NetworkOptions:
    """Hold everything that makes a network but its name and its weights; checked when made.

    width: multiplies every hidden channel count, never the 3 input or 2 output channels.
    voxel_resolution: side of the output grid: 32, 64 or 128.
    form: ``fast``, or ``plain``: the same function written as the paper reads, for reference.
    """

    preset: str = "released-code"
    width: float = 1.0
    voxel_resolution: int = 32
    form: str = "fast"

    def __post_init__(self) -> None:
        check_known("preset", self.preset, PRESETS)
        check_known("form", self.form, FORMS)
        if not (math.isfinite(self.width) and 0 < self.width <= 16):
            raise ValueError(f"width {self.width} is not a factor for channel counts (use more than 0, at most 16)")
        if self.voxel_resolution not in VOXEL_RESOLUTIONS:
            raise ValueError(f"voxel_resolution {self.voxel_resolution} is not offered (use 32, 64 or 128)")

    @property
    def leaky_slope(self) -> float:
        """Give the slope of the leaky ReLUs for negative values."""
        return PRESETS[self.preset].leaky_slope

    @property
    def fast(self) -> bool:
        """Say whether the fast form is built."""
        return self.form == "fast"

    def scaled(self, num_channels: int) -> int:
        """Give a hidden channel count at this width: rounded, at least 2."""
        return max(2, round(num_channels * self.width))


class ReconstructionNetwork(nn.Module, ABC):
    """A one-device network from images of an object, any number of them, to its occupancy grid.

    A subclass builds its modules in ``__init__(name, options)`` and shows them by `stages`; nothing else of
    a network is known outside this room. The state dict is the same for both forms.
    """

    def __init__(self, name: str, options: NetworkOptions) -> None:
        super().__init__()
        self.name = name
        self.options = options

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Give the stages in order: the first takes ``images`` (VBCHW), the last gives ``logits`` (BCDHW)."""

    def forward(self, images_VBCHW: Tensor) -> Tensor:
        """Give the logits B×2×D×D×D (channel 0 empty, 1 occupied) of images V×B×3×127×127 in [0, 1], RGB.

        Raises:
            ValueError: the images have another shape or type.
        """
        self.check_images(images_VBCHW)
        return run_stages(self.stages(), {"images": images_VBCHW})["logits"]

    def check_images(self, images_VBCHW: Tensor) -> None:
        """Raise a ValueError that says what would be right unless the images fit the network."""
        shape, needed = tuple(images_VBCHW.shape), f"V×B×{IMAGE_CHANNELS}×{IMAGE_SIDE}×{IMAGE_SIDE}"
        if len(shape) == 4:
            raise ValueError(f"images have 4 axes {shape} but {needed} is needed (one view: images[None])")
        if len(shape) != 5 or 0 in shape:
            raise ValueError(f"images of shape {shape} but {needed} with at least one view and sample is needed")
        if shape[2] != IMAGE_CHANNELS and shape[4] == IMAGE_CHANNELS:
            raise ValueError(f"images of shape {shape} have channels last but {needed} is needed (permute them)")
        if shape[2] != IMAGE_CHANNELS:
            raise ValueError(f"images of shape {shape} have {shape[2]} channels but {needed} is needed (RGB, no alpha)")
        if shape[3:] != (IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(f"images are {shape[3]}×{shape[4]} pixels but {needed} is needed (crop them)")
        if not images_VBCHW.is_floating_point():
            raise ValueError(f"images are {images_VBCHW.dtype} but floats in [0, 1] are needed (divide bytes by 255)")
        dtype = next(self.parameters()).dtype
        if images_VBCHW.dtype != dtype and not torch.is_autocast_enabled(images_VBCHW.device.type):
            raise ValueError(f"images are {images_VBCHW.dtype} but the network is {dtype}: convert one of them")


class NetworkBuilder(Protocol):
    """Make the modules of a network, their weights not yet drawn."""

    def __call__(self, name: str, options: NetworkOptions) -> ReconstructionNetwork:
        """Give a network of this name with these options."""
        ...


NETWORKS: dict[str, NetworkBuilder] = {}


def register_network(name: str) -> Callable[[NetworkBuilder], NetworkBuilder]:
    """Decorate the builder of a network that `create_model` shall know by this name."""

    def register(builder: NetworkBuilder) -> NetworkBuilder:
        assert name not in NETWORKS, f"two networks are called {name}"
        NETWORKS[name] = builder
        return builder

    return register


def create_model(
    name: str,
    *,
    preset: str = "released-code",
    width: float = 1.0,
    voxel_resolution: int = 32,
    form: str = "fast",
    seed: int = 0,
) -> ReconstructionNetwork:
    """Make a network on the CPU in float32, its weights drawn from the seed alone.

    The global random numbers are neither used nor moved. See `NetworkOptions` for the settings.

    Raises:
        ValueError: an unknown name, preset or form (the nearest known one is named), or a setting out of range.
    """
    check_known("network", name, NETWORKS)
    options = NetworkOptions(preset=preset, width=width, voxel_resolution=voxel_resolution, form=form)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is out of range (use 0 to 2**63 - 1)")
    # On the meta device no time and no random number goes into weights that are drawn below anyway.
    with torch.device("meta"):
        network = NETWORKS[name](name, options)
    network = network.to_empty(device="cpu").to(torch.float32)
    initialise(network, PRESETS[preset].weight_std, seed)
    return network


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest known one unless the name is known."""
    names = list(known)
    if name in names:
        return
    nearest = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"unknown {kind} {name!r}: {hint}(known: {', '.join(names)})")
