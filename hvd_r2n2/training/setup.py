"""What every command needs before it starts: the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hvd_r2n2.config import ModelConfig
from hvd_r2n2.models import NETWORKS, Network, create_model, load_original_weights, load_weights


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
