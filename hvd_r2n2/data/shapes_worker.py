"""The process that makes built-in models: `python -m hvd_r2n2.data.shapes_worker`, started by `shapes_writer`.

Reads one `ModelJob` a line (JSON) from standard input, writes the model's files below the job's folder, and answers
each with one line of JSON: `{"bytes": n}`, or `{"error": name, "message": text}`.  It ends with its input, so it
does not outlive the process that started it.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hvd_r2n2.data.binvox import write_binvox
from hvd_r2n2.data.camera import draw_cameras, format_metadata
from hvd_r2n2.data.rendering import render_views
from hvd_r2n2.data.shapes import Solid, build_solid, model_generator
from hvd_r2n2.data.voxels import voxelise

PICTURES, VOXELS = "pictures", "voxels"


@dataclass(frozen=True)
class ModelJob:
    """One model to make: which, what of it, and the folder (which exists) for `pictures/` and `voxels/`."""

    synset: str
    seed: int
    index: int
    num_views: int
    resolution: int
    pictures: bool
    voxels: bool
    folder: str


def make_model(job: ModelJob) -> int:
    """Write a model's pictures, their lists and its voxels; return their bytes."""
    solid, folder = build_solid(job.synset, job.seed, job.index), Path(job.folder)
    if job.pictures:
        _write_pictures(solid, job, folder / PICTURES / "rendering")
    if job.voxels:
        (folder / VOXELS).mkdir()
        corner, sides = solid.vertices_N3.min(axis=0), np.ptp(solid.vertices_N3, axis=0)
        translate = (round(float(corner[0]), 9), round(float(corner[1]), 9), round(float(corner[2]), 9))
        occupancy_XYZ = voxelise(solid.mesh(), job.resolution)
        # As in the published files: the mesh's lowest corner, and the longest side, in the pictures' units.
        write_binvox(folder / VOXELS / "model.binvox", occupancy_XYZ, translate, round(float(sides.max()), 9))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_pictures(solid: Solid, job: ModelJob, folder: Path) -> None:
    cameras = draw_cameras(model_generator(job.synset, job.seed, job.index, stream=1), job.num_views)
    folder.mkdir(parents=True)
    names = [f"{view:02d}.png" for view in range(job.num_views)]
    for name, picture_HW4 in zip(names, render_views(solid.mesh(), solid.colours_F3, cameras), strict=True):
        Image.fromarray(picture_HW4).save(folder / name)
    (folder / "rendering_metadata.txt").write_text(format_metadata(cameras), encoding="ascii")
    (folder / "renderings.txt").write_text("".join(f"{name}\n" for name in names), encoding="ascii")


def _use_one_thread() -> None:
    """Let Embree find one core while it starts its threads; the process may then run on any of them."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    solid = build_solid("table", 0, 0)
    render_views(solid.mesh(), solid.colours_F3, draw_cameras(np.random.default_rng(0), 1), image_size=8)
    os.sched_setaffinity(0, cores)


def main() -> None:
    """Answer jobs until the input ends."""
    # An interrupt of the terminal reaches the whole group; the process that started this one decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _use_one_thread()
    for line in sys.stdin:
        try:
            answer: dict[str, int | str] = {"bytes": make_model(ModelJob(**json.loads(line)))}
        except Exception as error:  # every failure is the parent's to report, with the model's name
            answer = {"error": type(error).__name__, "message": str(error)}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            # The process that asked is gone; so is the point of finishing the interpreter's own flush.
            os._exit(1)


if __name__ == "__main__":
    main()
