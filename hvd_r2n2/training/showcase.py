"""What a run shows of its network: a few samples as pictures and meshes, or pictures and their names."""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hvd_r2n2.config import Config
from hvd_r2n2.data.augment import augment_labelled, centre_crop, centre_draws
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.data.labelled import LabelledPictures
from hvd_r2n2.data.voxels import mesh_from_voxels
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.telemetry.pictures import captioned_grid, reconstruction_grid
from hvd_r2n2.training.forward import evaluating
from hvd_r2n2.training.metrics import occupancy_probability
from hvd_r2n2.training.precision import autocast, weights_dtype


def show_samples(
    part: str,
    model: nn.Module,
    dataset: Dataset,
    indices: npt.NDArray[np.int64],
    config: Config,
    device: torch.device,
    log: RunLog,
    step: int,
    threshold: float,
) -> None:
    """Record pictures (inputs, truth, prediction) and meshes of some of `indices`, all samples of a `part`.

    One rank calls it, with its log; `log.pictures` says how many samples.
    """
    chosen = _spread(indices, config.log.pictures)
    views = list(range(config.evaluation.views))
    images_VBHWC = torch.from_numpy(np.stack([dataset.images(int(index), views) for index in chosen], axis=1))
    images_VBCHW = centre_crop(images_VBHWC.to(device), weights_dtype(config.train.dtype))
    logits_B2DDD = _predict(model, images_VBCHW, config, device)
    probability_BDDD = occupancy_probability(logits_B2DDD).float().cpu().numpy()
    rows = []
    for number, index in enumerate(chosen):
        inputs = list(images_VBHWC[:, number].numpy())
        rows.append((inputs, dataset.occupancy(int(index)) > 0, probability_BDDD[number] > threshold))
    titles = [*(f"view {view + 1}" for view in views), "truth", "reconstruction"]
    log.picture(step, part, reconstruction_grid(rows, titles))
    if importlib.util.find_spec("trimesh") is None:
        return
    for number, (_, truth, predicted) in enumerate(rows):
        for name, occupancy in (("truth", truth), ("reconstruction", predicted)):
            if occupancy.any():
                mesh = mesh_from_voxels(occupancy)
                log.mesh(step, f"{part}-{number}/{name}", mesh.vertices, mesh.faces)


def show_classes(
    part: str,
    model: nn.Module,
    dataset: LabelledPictures,
    indices: npt.NDArray[np.int64],
    config: Config,
    device: torch.device,
    log: RunLog,
    step: int,
) -> None:
    """Record some pictures of `indices`, all samples of a `part`, under the names that the network gives them.

    One rank calls it, with its log; `log.pictures` says how many pictures.
    """
    chosen = _spread(indices, config.log.pictures)
    images_VBHWC = torch.from_numpy(np.stack([dataset.images(int(index), [0]) for index in chosen], axis=1))
    draws = centre_draws(1, len(chosen), framing=dataset.framing, device=device)
    images_VBCHW = augment_labelled(images_VBHWC.to(device), draws, dataset.framing, weights_dtype(config.train.dtype))
    predicted_B = _predict(model, images_VBCHW[0], config, device).argmax(dim=1).tolist()
    samples = []
    for image_HWC, index, predicted in zip(images_VBHWC[0].numpy(), chosen, predicted_B, strict=True):
        label = int(dataset.target(int(index)))
        truth, name = dataset.classes[label], dataset.classes[predicted]
        samples.append((image_HWC, name if predicted == label else f"{name}, not {truth}", predicted == label))
    log.picture(step, part, captioned_grid(samples))


def _spread(indices: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return some of the indices, from the first to the last."""
    positions = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64)
    return np.take(indices, positions)


def _predict(model: nn.Module, images: torch.Tensor, config: Config, device: torch.device) -> torch.Tensor:
    """Return the logits of prepared pictures, in evaluation mode."""
    with evaluating(model), torch.inference_mode(), autocast(config.train.dtype, device):
        logits: torch.Tensor = model(images)
    return logits
