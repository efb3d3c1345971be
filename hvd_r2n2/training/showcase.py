"""What a run shows of its network: a few samples as pictures and meshes."""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt
import torch

from hvd_r2n2.config import Config
from hvd_r2n2.data.augment import centre_crop
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.data.voxels import mesh_from_voxels
from hvd_r2n2.models import ReconstructionNetwork
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.telemetry.pictures import reconstruction_grid
from hvd_r2n2.training.metrics import occupancy_probability
from hvd_r2n2.training.precision import autocast, weights_dtype


def show_samples(
    part: str,
    model: ReconstructionNetwork,
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
    chosen = indices[np.linspace(0, len(indices) - 1, min(config.log.pictures, len(indices))).astype(int)]
    views = list(range(config.evaluation.views))
    images_VBHWC = torch.from_numpy(np.stack([dataset.images(int(index), views) for index in chosen], axis=1))
    images_VBCHW = centre_crop(images_VBHWC.to(device)).to(weights_dtype(config.train.dtype))
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(config.train.dtype, device):
        probability_BDDD = occupancy_probability(model(images_VBCHW)).float().cpu().numpy()
    model.train(was_training)
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
