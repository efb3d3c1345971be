"""The ShapeNet layout of 3D-R2N2: where the files of a model lie, and which models a folder holds.

ShapeNetRendering/<synset>/<model>/rendering/00.png ... 23.png    137×137 RGBA
                                            rendering_metadata.txt    one line a view
ShapeNetVox32/<synset>/<model>/model.binvox    (ShapeNetVox64 for a resolution of 64, and so on)
"""

import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hvd_r2n2.data.categories import CATEGORIES, Category

NUM_VIEWS = 24
RENDERING_FOLDER = "ShapeNetRendering"

# An id becomes a part of a path: no separators, no leading dot, no room for "..".
_MODEL_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
# Threads help where a file system lets each question wait (a network's), which the first models tell.
_SCAN_THREADS, _SCAN_TRIALS = 8, 50


@dataclass(frozen=True, order=True)
class ModelRef:
    """One model: the synset of its category and its id; as text, `synset/model`."""

    synset: str
    model_id: str

    def __str__(self) -> str:
        return f"{self.synset}/{self.model_id}"


def parse_model_ref(text: str) -> ModelRef:
    """Read `synset/model`.

    Raises:
        ValueError: the text is not of that form, the synset is not one of the 13, or the id could leave its folder.
    """
    synset, slash, model_id = text.partition("/")
    if not slash or synset not in CATEGORIES or not is_model_id(model_id):
        raise ValueError(f"{text!r} is not a model (as 03001627/1a6f615e8b1b5ae4dbbc9440457e303e)")
    return ModelRef(synset, model_id)


def is_model_id(text: str) -> bool:
    """Say whether the text can name a model: letters, digits, `_`, `-` and inner `.`, without path tricks."""
    return _MODEL_ID.fullmatch(text) is not None and ".." not in text


def voxel_folder(voxel_resolution: int) -> str:
    """Return the name of the folder that holds the grids of this resolution."""
    return f"ShapeNetVox{voxel_resolution}"


def rendering_path(root: Path, ref: ModelRef) -> Path:
    """Return the folder of a model's pictures."""
    return root / RENDERING_FOLDER / ref.synset / ref.model_id / "rendering"


def picture_path(root: Path, ref: ModelRef, view: int) -> Path:
    """Return the file of one view's picture."""
    return rendering_path(root, ref) / f"{view:02d}.png"


def metadata_path(root: Path, ref: ModelRef) -> Path:
    """Return the file of a model's camera angles, one line a view."""
    return rendering_path(root, ref) / "rendering_metadata.txt"


def voxel_path(root: Path, ref: ModelRef, voxel_resolution: int) -> Path:
    """Return the file of a model's occupancy grid."""
    return root / voxel_folder(voxel_resolution) / ref.synset / ref.model_id / "model.binvox"


def list_models(root: Path, category: Category, voxel_resolution: int) -> tuple[ModelRef, ...]:
    """Return the category's models, sorted by id: all that have a folder of pictures or of voxels.

    Raises:
        ValueError: a folder's name cannot be a model's id.
    """
    names: set[str] = set()
    for folder in (root / RENDERING_FOLDER / category.synset, root / voxel_folder(voxel_resolution) / category.synset):
        for name in _folder_names(folder):
            if not is_model_id(name):
                raise ValueError(f"{folder / name}: {name!r} cannot be a model's id; rename or remove this folder")
            names.add(name)
    return tuple(ModelRef(category.synset, name) for name in sorted(names))


def fingerprint(root: Path, models: Sequence[ModelRef], voxel_resolution: int, num_views: int) -> str:
    """Return a hash of the names, sizes and modification times of all files of the models (missing ones included).

    No file is opened. Paths are taken relative to `root`, so that a moved folder keeps its fingerprint.
    """
    digest = hashlib.sha256(f"{voxel_resolution} {num_views}".encode())
    names = [f"{view:02d}.png" for view in range(num_views)] + ["rendering_metadata.txt"]
    pictures, voxels = f"{root}/{RENDERING_FOLDER}", f"{root}/{voxel_folder(voxel_resolution)}"

    def state(ref: ModelRef) -> bytes:
        # A million files: a Path for each would take more time than to ask for them.
        rendering = f"{pictures}/{ref.synset}/{ref.model_id}/rendering"
        paths = [f"{rendering}/{name}" for name in names]
        paths.append(f"{voxels}/{ref.synset}/{ref.model_id}/model.binvox")
        return "\n".join([str(ref), *map(file_state, paths)]).encode() + b"\n\n"

    start_s, cpu_s = time.monotonic(), time.thread_time()
    for ref in models[:_SCAN_TRIALS]:
        digest.update(state(ref))
    is_waiting = time.monotonic() - start_s > 2 * (time.thread_time() - cpu_s)
    rest = models[_SCAN_TRIALS:]
    if not is_waiting:  # threads would hinder each other
        for ref in rest:
            digest.update(state(ref))
        return digest.hexdigest()
    with ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="hvd_r2n2-scan") as executor:
        for found in executor.map(state, rest):
            digest.update(found)
    return digest.hexdigest()


def _folder_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return []


def file_state(path: str | Path) -> str:
    """Return what changes with a file: its size and time, or why the system does not say them."""
    try:
        status = os.stat(path)  # noqa: PTH116 (see above)
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        return f"error {error.errno}"
