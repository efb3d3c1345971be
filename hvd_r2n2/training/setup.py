"""What every command needs before it starts: device, model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hvd_r2n2.comm import Communicator, choose_devices, gather_places, share_of_cores
from hvd_r2n2.config import ModelConfig, TrainConfig
from hvd_r2n2.models import NETWORKS, Network, create_model, load_original_weights, load_weights


def choose_device(config: TrainConfig, communicator: Communicator, report: Callable[[str], None]) -> torch.device:
    """Return this rank's device, give it its share of the cores, and report where every rank is; all ranks call it."""
    places = gather_places(communicator)
    place = places[communicator.rank]
    device = choose_devices(config.device, place, places)[0]
    torch.set_num_threads(config.cpu_threads or share_of_cores(place, places))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    described = communicator.all_gather_object(
        f"rank {place.rank} on {place.host}: {device}, {torch.get_num_threads()} thread(s)"
    )
    for text in described:
        report(text)
    return device


def build_model(config: ModelConfig, seed: int) -> Network:
    """Return the network on the CPU, with fresh weights or those of `model.weights`.

    Raises:
        ValueError: the weights' file cannot be read or does not fit.
    """
    if config.classifies and config.num_classes is None:
        raise ValueError("model.num_classes: not known before the data are (it is counted where it is left out)")
    special: dict[str, Any] = {"num_classes": config.num_classes}
    if not config.classifies:
        special = {"preset": config.preset, "voxel_resolution": config.voxel_resolution, "form": config.form}
    model = create_model(config.name, width=config.width, cross=config.cross, seed=seed, **special)
    if config.weights is not None:
        load = load_original_weights if config.weights.endswith(".npy") else load_weights
        try:
            load(model, Path(config.weights))
        except (ValueError, OSError) as error:
            reason = f"{config.weights}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise ValueError(
                f"model.weights: {reason} (a checkpoint's model.safetensors, or the original's weights.npy, is needed)"
            ) from error
    return model


def network_cross(config: ModelConfig) -> tuple[str, ...] | None:
    """Return `model.cross`, the network's own in place of `default`."""
    if config.cross != "default":
        return config.cross
    published: tuple[str, ...] | None = NETWORKS[config.name].options().cross
    return published
