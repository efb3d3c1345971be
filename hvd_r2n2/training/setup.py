"""What every command needs before it starts: device, data, model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from hvd_r2n2.comm import Communicator, choose_devices, gather_places, share_of_cores
from hvd_r2n2.config import Config, DataConfig, ModelConfig, TrainConfig
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.shapes_writer import write_shapes
from hvd_r2n2.models import ReconstructionNetwork, create_model, load_original_weights, load_weights

DEFAULT_MODELS_PER_CATEGORY = 40


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


def build_model(config: ModelConfig, seed: int) -> ReconstructionNetwork:
    """Return the network on the CPU, with fresh weights or those of `model.weights`.

    Raises:
        ValueError: the weights' file cannot be read or does not fit.
    """
    model = create_model(
        config.name,
        preset=config.preset,
        width=config.width,
        voxel_resolution=config.voxel_resolution,
        form=config.form,
        seed=seed,
    )
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


def open_data(config: Config, communicator: Communicator, report: Callable[[str], None]) -> Dataset:
    """Return the data, after making the built-in shapes or the cache where they are missing.

    Every rank calls it; on each host one rank does the work and the others wait for it at a file lock.

    Raises:
        ValueError: something is missing or broken; says all of it.
    """
    communicator.barrier()
    if communicator.local_rank:
        time.sleep(0.3)  # so that it is local rank 0 that works and shows how far it is; the locks are right anyway
    root = data_root(config.data)
    if config.data.root is None:
        write_shapes(
            root,
            config.data.models_per_category or DEFAULT_MODELS_PER_CATEGORY,
            categories=config.data.categories,
            seed=config.data.shapes_seed or 0,
            resolution=config.model.voxel_resolution,
            report=report,
        )
    return open_dataset(config.data, root, config.model.voxel_resolution, report)


def data_root(config: DataConfig) -> Path:
    """Return the folder of the data; of the built-in shapes, one for each setting in data/ of the working directory."""
    if config.root is not None:
        return Path(config.root)
    count = config.models_per_category or DEFAULT_MODELS_PER_CATEGORY
    return Path("data") / f"shapes-{count}-seed-{config.shapes_seed or 0}"
