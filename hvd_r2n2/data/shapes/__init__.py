"""Built-in solids of the 13 ShapeNet categories of 3D-R2N2: parametric, coloured, made from random numbers alone.

A new category: one function `Draw -> list[Part]` and its line in `BUILDERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvd_r2n2.common.extras import require
from hvd_r2n2.data.categories import find_category
from hvd_r2n2.data.shapes.aeroplane import aeroplane
from hvd_r2n2.data.shapes.car import car
from hvd_r2n2.data.shapes.chair import chair
from hvd_r2n2.data.shapes.electronics import display, speaker, telephone
from hvd_r2n2.data.shapes.furniture import cabinet, table
from hvd_r2n2.data.shapes.lamp import lamp
from hvd_r2n2.data.shapes.long_seats import bench, sofa
from hvd_r2n2.data.shapes.parts import Draw, Part
from hvd_r2n2.data.shapes.rifle import rifle
from hvd_r2n2.data.shapes.watercraft import watercraft

BUILDERS: Mapping[str, Callable[[Draw], list[Part]]] = MappingProxyType(
    {
        "aeroplane": aeroplane,
        "bench": bench,
        "cabinet": cabinet,
        "car": car,
        "chair": chair,
        "display": display,
        "lamp": lamp,
        "speaker": speaker,
        "rifle": rifle,
        "sofa": sofa,
        "table": table,
        "telephone": telephone,
        "watercraft": watercraft,
    }
)

SHAPES_VERSION = 1
"""Raised whenever the same seed gives other shapes or pictures, so that one folder never holds a mixture."""


@dataclass(frozen=True)
class Solid:
    """A coloured mesh as the camera sees it: bounding box centred at the origin, its diagonal 1, front to +x, y up.

    `vertices_N3` float64, `faces_F3` int64 with outward normals, `colours_F3` in [0, 1].  Each part is closed; the
    parts overlap.
    """

    vertices_N3: NDArray[np.float64]
    faces_F3: NDArray[np.int64]
    colours_F3: NDArray[np.float64]

    def mesh(self) -> Any:
        """Return the solid as a `trimesh.Trimesh`."""
        return require("trimesh").Trimesh(self.vertices_N3, self.faces_F3, process=False)


def build_solid(category: str, seed: int, index: int) -> Solid:
    """Return a category's model of this seed and index; nothing else decides its shape.

    Raises:
        ValueError: unknown category.
    """
    found = find_category(category)
    return assemble(BUILDERS[found.name](Draw(model_generator(found.synset, seed, index, stream=0))))


def model_generator(synset: str, seed: int, index: int, *, stream: int) -> np.random.Generator:
    """Return a generator of its own for each model and stream (0: the shape, 1: the cameras)."""
    return np.random.default_rng([seed, int(synset), index, stream])


def assemble(parts: list[Part]) -> Solid:
    """Join parts into one solid, centred and scaled as ShapeNet's are."""
    vertices_N3 = np.concatenate([part.surface.vertices_N3 for part in parts])
    starts = np.cumsum([0] + [len(part.surface.vertices_N3) for part in parts[:-1]])
    faces_F3 = np.concatenate([part.surface.faces_F3 + start for part, start in zip(parts, starts, strict=True)])
    colours_F3 = np.concatenate([np.tile(part.colour, (len(part.surface.faces_F3), 1)) for part in parts])
    low, high = vertices_N3.min(axis=0), vertices_N3.max(axis=0)
    vertices_N3 = (vertices_N3 - (low + high) / 2) / np.linalg.norm(high - low)
    return Solid(vertices_N3, faces_F3, colours_F3)
