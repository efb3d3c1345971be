"""What every network of this room is, and the registry of networks by name.

Shapes: V views, B batch, C H W an image's channels, rows, columns; 2 logits (empty, occupied) and D D D the
x, y, z of the grid; F features, of which the last are a logit a class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Read, Stage, run_stages
from hvd_r2n2.models.initialisation import InitialValues, initialise
from hvd_r2n2.models.options import PRESETS, ClassificationOptions, NetworkOptions, ReconstructionOptions, check_known

IMAGE_SIDE = 127  # for reconstruction
IMAGE_CHANNELS = 3

Options = TypeVar("Options", bound=NetworkOptions)


class Network(nn.Module, ABC):
    """A one-device network from images to logits.

    A subclass builds its modules in ``__init__(name, options)`` and shows them by `stages`: a split knows no more.
    """

    def __init__(self, name: str, options: NetworkOptions) -> None:
        super().__init__()
        self.name = name
        self.options = options

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Give the stages in order: the first reads ``images``, the last gives ``logits``."""

    @abstractmethod
    def initial_values(self, layer: str, fan_in: int, fan_out: int) -> InitialValues:
        """Say what a layer, called as in the state dict, starts with."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of images.

        Raises:
            ValueError: the images have another shape or type than the network takes.
        """

    def check_type(self, images: Tensor, needed: str) -> None:
        """Raise a ValueError that says what would be right unless the images are numbers as the network takes them."""
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype} but {needed}")
        dtype = next(self.parameters()).dtype
        if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"images are {images.dtype} but the network is {dtype}: convert one of them")


class ReconstructionNetwork(Network):
    """A network from images of an object, any number of them, to its occupancy grid.

    The state dict is the same for all forms. Stages take ``images`` as VBCHW and give ``logits`` as BCDHW.
    """

    options: ReconstructionOptions

    def initial_values(self, layer: str, fan_in: int, fan_out: int) -> InitialValues:
        """Give the preset's deviation and a bias of 0.1."""
        return InitialValues(PRESETS[self.options.preset].weight_std(fan_in, fan_out), 0.1)

    def forward(self, images_VBCHW: Tensor) -> Tensor:
        """Give the logits B×2×D×D×D (channel 0 empty, 1 occupied) of images V×B×3×127×127 in [0, 1], RGB.

        Raises:
            ValueError: the images have another shape or type.
        """
        self.check_images(images_VBCHW)
        return run_stages(self.stages(), {"images": images_VBCHW}, {"logits"})["logits"]

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
        self.check_type(images_VBCHW, "floats in [0, 1] are needed (divide bytes by 255)")


class ClassificationNetwork(Network):
    """A network from an image to a logit a class.

    Stages take ``images`` as BCHW and, in training, dropout masks as BF (0 or 2, see `NetworkOptions.dropout_masks`);
    they give ``logits`` as BF.
    """

    options: ClassificationOptions
    image_side: int

    def forward(self, images_BCHW: Tensor, masks_BF: Mapping[str, Tensor] | None = None) -> Tensor:
        """Give the logits B×num_classes of images B×3×H×W, RGB, H = W = `image_side`, centred: from -128 to 127.

        Where a dropout mask is not given, nothing is dropped.

        Raises:
            ValueError: the images have another shape or type.
        """
        self.check_images(images_BCHW)
        tensors = {"images": images_BCHW, **(masks_BF or {})}
        absent = self.options.dropout_masks.keys() - tensors.keys()
        stages = [
            replace(stage, inputs=tuple(read for read in stage.inputs if read.tensor.name not in absent))
            for stage in self.stages()
        ]
        return run_stages(stages, tensors, {"logits"})["logits"]

    def check_images(self, images_BCHW: Tensor) -> None:
        """Raise a ValueError that says what would be right unless the images fit the network."""
        shape, needed = tuple(images_BCHW.shape), f"B×{IMAGE_CHANNELS}×{self.image_side}×{self.image_side}"
        if len(shape) != 4 or shape[0] == 0 or shape[1:] != (IMAGE_CHANNELS, self.image_side, self.image_side):
            raise ValueError(f"images of shape {shape} but {needed} with at least one sample is needed")
        self.check_type(images_BCHW, "floats are needed (128 less than the bytes)")


@dataclass(frozen=True)
class Registered(Generic[Options]):
    """How to make a network: its kind of options, and what builds its modules, their weights not yet drawn."""

    options: type[Options]
    build: Callable[[str, Options], Network]

    def make(self, name: str, settings: Mapping[str, object]) -> Network:
        """Build the network on the meta device; a ValueError names settings that it does not have."""
        known = [field.name for field in fields(self.options)]
        for key, value in settings.items():
            if key not in known:
                raise ValueError(f"{key} {value!r} means nothing for {name} (its settings: {', '.join(known)})")
        options = self.options(**settings)  # type: ignore[arg-type]
        # No time and no random number goes into weights that are drawn later anyway.
        with torch.device("meta"):
            return self.build(name, options)


NETWORKS: dict[str, Registered[Any]] = {}


def register_network(
    name: str, options: type[Options]
) -> Callable[[Callable[[str, Options], Network]], Callable[[str, Options], Network]]:
    """Decorate the builder of a network that `create_model` shall know by this name."""

    def register(builder: Callable[[str, Options], Network]) -> Callable[[str, Options], Network]:
        assert name not in NETWORKS, f"two networks are called {name}"
        NETWORKS[name] = Registered(options, builder)
        return builder

    return register


def create_model(
    name: str,
    *,
    width: float = 1.0,
    cross: Sequence[str] | Literal["default"] | None = "default",
    preset: str | None = None,
    voxel_resolution: int | None = None,
    form: str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Network:
    """Make a network on the CPU in float32, its weights drawn from the seed alone.

    The global random numbers are neither used nor moved. See the networks' options for the settings and their
    defaults; those that not every network has are given as None or not at all where they mean nothing.

    Raises:
        ValueError: an unknown name, preset, form or stage (the nearest known one is named), a setting out of range,
            or one that the network does not have.
    """
    check_known("network", name, NETWORKS)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is out of range (use 0 to 2**63 - 1)")
    optional = {"preset": preset, "voxel_resolution": voxel_resolution, "form": form, "num_classes": num_classes}
    settings: dict[str, object] = {key: value for key, value in optional.items() if value is not None}
    if isinstance(cross, str) and cross != "default":
        raise ValueError(f"cross {cross!r} is one word but a list of stages is needed: cross = [{cross}]")
    if cross != "default":
        settings["cross"] = None if cross is None else tuple(cross)
    network = NETWORKS[name].make(name, {"width": width} | settings)
    check_crossing(network.stages(), network.options.cross)
    _give_memory(network)
    initialise(network, network.initial_values, seed)
    return network


def _give_memory(network: Network) -> None:
    """Move parameters from the meta device to the CPU, in float32, their values not set.

    As `to_empty` would; but that imports torch's symbolic shapes, for half a second of each start.
    """
    assert not list(network.buffers())
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
            setattr(module, name, nn.Parameter(values, parameter.requires_grad))


def check_crossing(stages: Sequence[Stage], cross: Sequence[str] | None) -> None:
    """Raise a ValueError that names the nearest known one unless all these stages could read one tower only."""
    made = {tensor.name for stage in stages for tensor in stage.outputs}

    def could_be_halved(read: Read) -> bool:
        return read.tensor.name in made and read.channels != "own"

    known = [stage.name for stage in stages if any(map(could_be_halved, stage.inputs))]
    for name in cross or ():
        if name not in known and name in [stage.name for stage in stages]:
            raise ValueError(f"cross names {name}, which reads the whole image in any case: leave it out")
        check_known("stage in cross", name, known)
