"""The one-device baseline: how long one device takes for a step, kept in a file, and refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hvd_r2n2.common.files import read_json, replacing
from hvd_r2n2.common.hardware import Hardware, Versions, find_hardware, find_versions
from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import Config

_FORMAT = 1
# What decides how long a step takes, on one device and with any split alike.
_SETTINGS = (
    "model.name",
    "model.preset",
    "model.width",
    "model.voxel_resolution",
    "model.form",
    "model.cross",
    "model.num_classes",
    "train.batch_size",
    "train.dtype",
    "train.tf32",
    "train.recompute",
    "optimizer.name",
)
_ADVICE = (
    "measure again: python -m hvd_r2n2.benchmark baseline, for N ranks a host with --ranks N; or compare with nothing: "
    "log.baseline=null"
)


class BaselineError(ValueError):
    """A file that is no baseline, or one of another machine, other versions or other settings."""

    def __init__(self, reason: str) -> None:
        """Say `reason` and what to do."""
        super().__init__(f"{reason} ({_ADVICE})")
        self.reason = reason


@dataclass(frozen=True)
class Baseline:
    """Steps of the whole global batch on one device, in its best micro-batches, for each number of views."""

    device: str
    """Kind of device: `cpu` or `cuda`."""
    threads: int | None
    """Threads of the device, if it is a CPU."""
    accumulation: int
    """Micro-batches of a step that were found to be fastest."""
    times_s: Mapping[int, tuple[float, ...]]
    """By number of views: how long each measured step took."""
    settings: Mapping[str, Any]
    """The settings that the times depend on, by dotted name."""
    hardware: Hardware
    versions: Versions
    trials: Mapping[int, float]
    """By number of micro-batches that was tried: median of the step, in seconds, with the most views."""
    date: str
    command: str
    """What made it."""

    def expected_s(self, num_views: int) -> float:
        """Return how long one device takes for a step of so many views.

        View counts change from step to step, so the speed-up of some steps over the baseline is the sum of these
        over the sum of the steps' own times; a mean of images/s would weigh cheap and dear steps alike.

        Raises:
            ValueError: the baseline was not measured for so many views.
        """
        if num_views not in self.times_s:
            measured = ", ".join(map(str, sorted(self.times_s)))
            raise ValueError(f"the baseline was measured for {measured} view(s), not {num_views} ({_ADVICE})")
        return Spread.of(self.times_s[num_views]).median

    def images_per_s(self, num_views: int) -> float:
        """Return the pictures that one device takes in a second, in steps of so many views."""
        return float(self.settings["train.batch_size"]) * num_views / self.expected_s(num_views)


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that the time of a step depends on, as plain data."""
    found = {}
    for dotted in _SETTINGS:
        section, key = dotted.split(".")
        value = getattr(getattr(config, section), key)
        found[dotted] = list(value) if isinstance(value, tuple) else value
    return found


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline as JSON.

    Raises:
        OSError: it cannot be written.
    """
    steps = {
        str(views): {
            "median_s": Spread.of(times).median,
            "quartiles_s": Spread.of(times).quartiles,
            "images_per_s": baseline.images_per_s(views),
            "times_s": times,
        }
        for views, times in sorted(baseline.times_s.items())
    }
    content = {
        "format": _FORMAT,
        "device": baseline.device,
        "threads": baseline.threads,
        "micro_batch": baseline.settings["train.batch_size"] // baseline.accumulation,
        "accumulation": baseline.accumulation,
        "steps_by_views": steps,
        "settings": dict(baseline.settings),
        "hardware": asdict(baseline.hardware),
        "versions": asdict(baseline.versions),
        "trials_s": {str(count): seconds for count, seconds in baseline.trials.items()},
        "date": baseline.date,
        "command": baseline.command,
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_baseline(path: Path, config: Config, device: torch.device, threads: int) -> Baseline:
    """Read a baseline that training may be compared with.

    Args:
        path: file of `write_baseline`.
        config: the run's settings, resolved.
        device: one of the run's devices.
        threads: of each device, if it is a CPU.

    Raises:
        BaselineError: (a ValueError) it is no baseline, or it was measured on another machine, with other versions or
            other settings; names every difference.
        OSError: it cannot be read.
    """
    baseline = _read(path)
    here, versions = find_hardware(), find_versions()
    facts: list[tuple[str, Any, Any]] = [
        ("device", baseline.device, device.type),
        ("hvd_r2n2", baseline.versions.hvd_r2n2, versions.hvd_r2n2),
        ("torch", baseline.versions.torch, versions.torch),
    ]
    if device.type == "cuda":
        facts.append(("GPU", _first(baseline.hardware.gpus), torch.cuda.get_device_name(device)))
    else:
        facts += [("processor", baseline.hardware.cpu, here.cpu), ("cores", baseline.hardware.cores, here.cores)]
        facts.append(("threads of a device", baseline.threads, threads))
    wanted = settings_of(config)
    facts += [(name, baseline.settings.get(name), wanted[name]) for name in wanted]
    missing = [v for v in config.view_counts if v not in baseline.times_s]
    differences = [f"{name}: {there} there, {now} here" for name, there, now in facts if there != now]
    if missing:
        differences.append(f"views: no times of {', '.join(map(str, missing))}")
    if differences:
        raise BaselineError(f"{path}: this baseline does not fit: {'; '.join(differences)}")
    return baseline


def _read(path: Path) -> Baseline:
    try:
        content = read_json(path)
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, but {_FORMAT} is needed")
        hardware = content["hardware"]
        return Baseline(
            device=content["device"],
            threads=content["threads"],
            accumulation=content["accumulation"],
            times_s={int(views): tuple(step["times_s"]) for views, step in content["steps_by_views"].items()},
            settings=content["settings"],
            hardware=Hardware(**(hardware | {"gpus": tuple(hardware["gpus"])})),
            versions=Versions(**content["versions"]),
            trials={int(count): seconds for count, seconds in content["trials_s"].items()},
            date=content["date"],
            command=content["command"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaselineError(f"{path}: not a baseline: {error!r}") from None


def _first(names: tuple[str, ...]) -> str | None:
    return names[0] if names else None
