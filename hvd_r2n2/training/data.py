"""Where a run's data are, what classes they have, and how the built-in ones come to be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config, DataConfig
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.labelled import category_names
from hvd_r2n2.data.layout import RENDERING_FOLDER, list_models
from hvd_r2n2.data.picture_folder import list_classes
from hvd_r2n2.data.shapes_writer import write_shapes

DEFAULT_MODELS_PER_CATEGORY = 40
_HEAD_START_S = 0.3


def data_root(config: DataConfig) -> Path:
    """Return the folder of the data; of the built-in shapes, one for each setting in data/ of the working directory."""
    if config.root is not None:
        return Path(config.root)
    count = config.models_per_category or DEFAULT_MODELS_PER_CATEGORY
    return Path("data") / f"shapes-{count}-seed-{config.shapes_seed or 0}"


def is_of_models(config: DataConfig) -> bool:
    """Tell whether the data are models with pictures and grids, in ShapeNet's layout; else they are labelled pictures.

    The built-in shapes are, whether they have been made or not.
    """
    return config.root is None or (Path(config.root) / RENDERING_FOLDER).is_dir()


def find_classes(config: Config) -> tuple[str, ...]:
    """Return the names of the classes of a classification, in the order of their numbers; no picture is opened.

    Raises:
        ValueError: there are fewer than two, a category is unknown, or the folder is not there.
    """
    data, root = config.data, data_root(config.data)
    chosen = data.categories
    if is_of_models(data):
        if chosen is None and data.root is not None:
            resolution = config.model.voxel_resolution
            chosen = tuple(synset for synset, category in CATEGORIES.items() if list_models(root, category, resolution))
        classes = category_names(chosen)
    else:
        classes = list_classes(root) if chosen is None else tuple(sorted(chosen))
    if len(set(classes)) < len(chosen or classes):
        raise ValueError(f"data.categories: {', '.join(chosen or classes)} names a category twice")
    if len(classes) < 2:
        raise ValueError(f"{root}: {len(classes)} class ({', '.join(classes)}), at least 2 are needed to learn from")
    return classes


def ensure_data(config: Config, communicator: Communicator, report: Callable[[str], None]) -> Path:
    """Return the folder of the data, after making the built-in shapes where they are missing.

    Every rank calls it; on each host one rank does the work and the others wait for it at a file lock.
    """
    communicator.barrier()
    root = data_root(config.data)
    if config.data.root is None:
        write_shapes(
            root,
            config.data.models_per_category or DEFAULT_MODELS_PER_CATEGORY,
            categories=config.data.categories,
            seed=config.data.shapes_seed or 0,
            resolution=config.model.voxel_resolution,
            report=report,
            head_start_s=head_start_s(communicator),
        )
    return root


def head_start_s(communicator: Communicator) -> float:
    """Return how long a rank leaves work on the data to others, after a barrier.

    So it is local rank 0 that works and shows how far it is; the locks are right anyway.
    """
    return _HEAD_START_S if communicator.local_rank else 0.0
