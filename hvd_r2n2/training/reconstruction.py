"""Use of a trained network: photographs in; voxels, a mesh and a picture out.

Legend of suffixes: V views, B batch, C colour channels, H height, W width, D voxel side (x, y, z), XYZ grid axes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from hvd_r2n2.common.extras import require
from hvd_r2n2.common.files import read_json
from hvd_r2n2.data.augment import centre_crop
from hvd_r2n2.data.binvox import write_binvox
from hvd_r2n2.data.voxels import mesh_from_voxels
from hvd_r2n2.telemetry.pictures import Picture, reconstruction_picture
from hvd_r2n2.training.evaluation import RELEASED_THRESHOLD
from hvd_r2n2.training.forward import evaluating
from hvd_r2n2.training.metrics import occupancy_probability
from hvd_r2n2.training.photographs import read_photograph

MeshMethod = Literal["blocky", "marching-cubes"]

PREVIEW_AZIMUTHS = (45.0, 135.0, 225.0)
"""Directions from which `preview.png` shows the voxels, in degrees."""

_MOST_INPUTS_SHOWN = 5


@dataclass(frozen=True)
class Reconstruction:
    """What the network made of one object's photographs."""

    photographs: tuple[Picture, ...]
    """As the network sees them but for the crop: uint8 137×137×4 each."""
    probability_XYZ: npt.NDArray[np.float32]
    threshold: float

    @property
    def occupancy_XYZ(self) -> npt.NDArray[np.bool_]:
        """The cells whose probability exceeds the threshold."""
        return np.asarray(self.probability_XYZ > np.float32(self.threshold))


def read_photographs(paths: Sequence[Path]) -> tuple[Picture, ...]:
    """Read pictures of one object with `read_photograph`, and report everything that is wrong at once.

    Raises:
        ValueError: one or more pictures cannot be used.
    """
    pictures, problems = [], []
    for path in paths:
        try:
            pictures.append(read_photograph(path))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(pictures)


def reconstruct(
    model: nn.Module, photographs: Sequence[Picture], *, threshold: float, device: torch.device
) -> Reconstruction:
    """Run the network, in float32, on photographs of one object (uint8 137×137×4 each, in the order given).

    They are cropped at their centre and put before the grey of the evaluation (240). The network must be on `device`.

    Raises:
        ValueError: no photographs, or no cell exceeds the threshold.
    """
    if not photographs:
        raise ValueError("a reconstruction needs at least one picture")
    images_VBHWC = torch.from_numpy(np.stack(photographs)).unsqueeze(1).to(device)
    with evaluating(model), torch.inference_mode():
        logits_B2DDD = model(centre_crop(images_VBHWC))
    probability_XYZ = occupancy_probability(logits_B2DDD)[0].float().cpu().numpy()
    result = Reconstruction(tuple(photographs), probability_XYZ, threshold)
    if not result.occupancy_XYZ.any():
        highest = float(probability_XYZ.max())
        raise ValueError(
            f"no voxel's probability exceeds the threshold {threshold:g}: the highest is {highest:.3g}. "
            "Choose a lower --threshold, or train the network further"
        )
    return result


def recommended_threshold(run_directory: Path, step: int, num_views: int) -> tuple[float, str]:
    """Return the threshold for a run's checkpoint of `step` and this number of views, and where it comes from.

    That is the one which `evaluation.json` in the run directory has for the nearest number of views (the smaller of
    two as near); the released code's where there is no such file or it is of another checkpoint.

    Raises:
        ValueError: the file is there but is not what `hvd_r2n2.evaluate` writes.
    """
    path = run_directory / "evaluation.json"
    if not path.is_file():
        return RELEASED_THRESHOLD, "the released code's; no evaluation.json beside the checkpoint"
    try:
        content = read_json(path)
        evaluated = content["step"]
        by_views = {int(result["num_views"]): float(result["threshold"]) for result in content["results"]}
        nearest = min(by_views, key=lambda views: (abs(views - num_views), views))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result of `python -m hvd_r2n2.evaluate` ({error!r}): evaluate again, or give --threshold"
        ) from error
    if evaluated != step:
        return RELEASED_THRESHOLD, f"the released code's; {path} is of step {evaluated}, the checkpoint of step {step}"
    return by_views[nearest], f"{path}, {nearest} views"


def write_reconstruction(result: Reconstruction, directory: Path, mesh_method: MeshMethod = "blocky") -> list[Path]:
    """Write model.binvox, model.obj, model.glb and preview.png, and return their paths.

    The directory is made if needed. The files appear together: nothing is there if one cannot be made.

    Raises:
        ValueError: the directory is a file.
        OSError: it cannot be made or written.
        ModuleNotFoundError: a library is missing (see `require_mesh_libraries`).
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output {directory} is a file: --out needs a directory")
    directory.mkdir(parents=True, exist_ok=True)
    if mesh_method == "blocky":
        mesh = mesh_from_voxels(result.occupancy_XYZ, "blocky")
    else:
        mesh = mesh_from_voxels(result.probability_XYZ, "marching-cubes", result.threshold)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".reconstruct-") as scratch_name:
        scratch = Path(scratch_name)
        write_binvox(scratch / "model.binvox", result.occupancy_XYZ)
        mesh.export(scratch / "model.obj", file_type="obj")
        mesh.export(scratch / "model.glb", file_type="glb")
        Image.fromarray(draw_preview(result)).save(scratch / "preview.png")
        names = sorted(path.name for path in scratch.iterdir())
        return [(scratch / name).replace(directory / name) for name in names]


def require_mesh_libraries(mesh_method: MeshMethod) -> None:
    """Raise a ValueError that says what to do unless the libraries for this kind of mesh are installed."""
    try:
        require("trimesh")
        if mesh_method == "marching-cubes":
            require("skimage.measure")
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error


def draw_preview(result: Reconstruction) -> Picture:
    """Draw the photographs (the first few of many) beside the voxels from three directions: uint8 H×W×3."""
    shown = result.photographs[:_MOST_INPUTS_SHOWN]
    num_views = len(result.photographs)
    titles = [f"picture {number} of {num_views}" for number in range(1, len(shown) + 1)]
    titles += [f"voxels from {azimuth:g}°" for azimuth in PREVIEW_AZIMUTHS]
    return reconstruction_picture(shown, None, result.occupancy_XYZ, titles, size=256, azimuths=PREVIEW_AZIMUTHS)
