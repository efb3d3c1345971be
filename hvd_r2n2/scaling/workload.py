"""What a training step has to do on one device, by its number of samples; and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from hvd_r2n2.common.files import read_json, replacing
from hvd_r2n2.scaling.overlap import Layer

VERSION = 2
_KIND = "hvd_r2n2 step costs"
GRAPHED = "train.cuda_graphs is for one device a rank"
"""Why nothing is split then."""


@dataclass(frozen=True)
class Profile:
    """What the layers take with so many samples."""

    samples: int
    layers: tuple[Layer, ...]
    """In forward order."""


@dataclass(frozen=True)
class Workload:
    """A network, its batch and its costs on one device."""

    name: str
    source: str
    """Where the times come from, in words."""
    profiles: tuple[Profile, ...]
    """By rising number of samples, at least one; the layers are the same in all."""
    batch_size: int
    """Samples of a step over all ranks."""
    steps: int
    """Of the whole run."""
    accumulation: int = 1
    """Parts that a rank's samples are taken in; gradients are averaged in the last one only."""
    other_s: float = 0.0
    """Once a step: the norm of the gradient, moving the weights."""
    images_per_sample: float = 1.0
    bytes_per_image: float = 0.0
    split_speedups: Mapping[int, float] = field(default_factory=dict)
    """Over one device, of a rank whose layers are split over `split_devices`, by its samples; empty: not known."""
    why_not_split: str = "what a split gains is not known: measure it here, or give --split-speedup"
    """What is said where `split_speedups` is empty."""
    split_devices: int = 2
    cuda_graphs: bool = False
    """Whether it is of steps with CUDA graphs, which are for one device a rank."""

    @property
    def gradient_bytes(self) -> int:
        """Give what is averaged in a step."""
        return sum(sum(layer.gradients) for layer in self.profiles[0].layers)

    def layers(self, samples: float) -> tuple[Layer, ...]:
        """Return what the layers take with so many samples.

        On lines between measured numbers, in proportion beyond the largest. Fewer than the smallest take as long as it.
        """
        profiles, last = self.profiles, self.profiles[-1]
        if samples <= profiles[0].samples:
            return profiles[0].layers
        if samples >= last.samples:
            factor = samples / last.samples
            return tuple(_scaled(layer, factor, layer, 0.0) for layer in last.layers)
        after = next(number for number, one in enumerate(profiles) if samples < one.samples)
        low, high = profiles[after - 1], profiles[after]
        share = (samples - low.samples) / (high.samples - low.samples)
        return tuple(_scaled(a, 1 - share, b, share) for a, b in zip(low.layers, high.layers, strict=True))

    def split_speedup(self, samples: float) -> float:
        """Return how much faster a split rank is with so many samples: the value for the nearest number that is known.

        Raises:
            ValueError: none is known; says why.
        """
        if not self.split_speedups:
            raise ValueError(self.why_not_split)
        return self.split_speedups[min(self.split_speedups, key=lambda known: (abs(known - samples), known))]


def _scaled(one: Layer, a: float, other: Layer, b: float) -> Layer:
    forward_s, backward_s = a * one.forward_s + b * other.forward_s, a * one.backward_s + b * other.backward_s
    return Layer(one.name, forward_s, backward_s, one.gradients)


def write_workload(path: Path, workload: Workload, about: Mapping[str, Any]) -> None:
    """Write costs, with what was measured where.

    Raises:
        OSError: they cannot be written.
    """
    content = {"kind": _KIND, "version": VERSION, **about, "workload": asdict(workload)}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_workload(path: Path) -> Workload:
    """Read costs that `write_workload` wrote.

    Raises:
        ValueError: it is another file, of another version, or damaged; names the file.
        OSError: it cannot be read.
    """
    content = checked_file(path, _KIND, VERSION, "python -m hvd_r2n2.plan scale --save-costs FILE")
    try:
        return _workload(content["workload"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def checked_file(path: Path, kind: str, version: int, command: str) -> dict[str, Any]:
    """Read a JSON file of ours and check what it is.

    Raises:
        ValueError: it is not JSON, not of this kind, or of another version.
        OSError: it cannot be read.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not a file of {kind} ({error}); {command} writes one") from None
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise ValueError(f"{path}: not a file of {kind}; {command} writes one")
    if content.get("version") != version:
        found = content.get("version")
        raise ValueError(
            f"{path}: version {found!r} of {kind}, this is version {version}: write it anew with {command}"
        )
    return content


def number(value: Any, name: str, least: float = 0.0) -> float:
    """Return a number out of a file.

    Raises:
        ValueError: it is none, not finite or too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < least:
        raise ValueError(f"{name}: {value!r} is not a number of at least {least:g}")
    return float(value)


def _workload(found: dict[str, Any]) -> Workload:
    profiles = tuple(_profile(one) for one in found["profiles"])
    sizes = [profile.samples for profile in profiles]
    names = {tuple(layer.name for layer in profile.layers) for profile in profiles}
    if not profiles or sizes != sorted(set(sizes)) or len(names) != 1:
        raise ValueError("profiles: at least one, by rising samples, with the same layers in all")
    if not isinstance(found["cuda_graphs"], bool):
        raise ValueError(f"cuda_graphs: {found['cuda_graphs']!r} is neither true nor false")
    speedups = {int(key): number(value, "split_speedups") for key, value in found["split_speedups"].items()}
    return Workload(
        name=str(found["name"]),
        source=str(found["source"]),
        profiles=profiles,
        batch_size=int(number(found["batch_size"], "batch_size", 1)),
        steps=int(number(found["steps"], "steps", 1)),
        accumulation=int(number(found["accumulation"], "accumulation", 1)),
        other_s=number(found["other_s"], "other_s"),
        images_per_sample=number(found["images_per_sample"], "images_per_sample"),
        bytes_per_image=number(found["bytes_per_image"], "bytes_per_image"),
        split_speedups=speedups,
        why_not_split=str(found["why_not_split"]),
        split_devices=int(number(found["split_devices"], "split_devices", 1)),
        cuda_graphs=found["cuda_graphs"],
    )


def _profile(found: dict[str, Any]) -> Profile:
    return Profile(int(number(found["samples"], "samples", 1)), _layers(found["layers"]))


def _layers(found: Sequence[dict[str, Any]]) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            str(one["name"]),
            number(one["forward_s"], "forward_s"),
            number(one["backward_s"], "backward_s"),
            tuple(int(number(size, "gradients")) for size in one["gradients"]),
        )
        for one in found
    )
