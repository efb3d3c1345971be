"""Meshes into filled occupancy grids, and occupancy grids into meshes.

Grids are indexed x, y, z with y up.  A grid of D cells a side fills the unit cube centred at the origin: cell i of an
axis spans [i/D - 1/2, (i+1)/D - 1/2].  An object is centred in it and its longest side fills it.  The published
pictures show the object at another size: the diagonal of its bounding box is 1. A mesh from `mesh_from_voxels` lies
over them once it is multiplied by the longest side of that box over its diagonal.

Shapes: N vertices or points, F faces, D voxel resolution.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hvd_r2n2.common.extras import require
from hvd_r2n2.data.binvox import MAX_RESOLUTION

_MAX_POINTS_AT_ONCE = 2_000_000
# In cells.  Points of a face lie on rows at most 0.3 apart and at most 0.5 apart in a row, so that no place of the
# face is as far as half a cell from one of them: then the marked cells let no 6-connected path through the surface.
_ROW_SPACING, _COLUMN_SPACING = 0.3, 0.5
# In cells, and as a fraction of a face: a face exactly between two cells marks the inner one, and its border marks no
# cell beyond, so that a box of whole cells keeps its size.
_INWARD = 1e-4


def voxelise(mesh: Any, resolution: int = 32) -> NDArray[np.bool_]:
    """Return the filled grid (D×D×D bool) of a `trimesh.Trimesh`, centred, its longest side over all D cells.

    A cell is occupied if the surface passes through it or the surface encloses it, so thin parts stay; holes of the
    surface wider than a cell leave the inside empty.  Works for meshes that are not watertight.

    Raises:
        ValueError: the mesh has no faces or no extent, or the resolution is out of range.
    """
    if not 2 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"voxel resolution {resolution} is out of range: it must be 2 to {MAX_RESOLUTION}")
    corners_F33 = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces, dtype=np.int64)]
    if not len(corners_F33) or not np.isfinite(corners_F33).all():
        raise ValueError(f"a mesh of {len(corners_F33)} faces cannot be voxelised: it needs faces with finite corners")
    low, high = corners_F33.min(axis=(0, 1)), corners_F33.max(axis=(0, 1))
    longest = float((high - low).max())
    if longest <= 0:
        raise ValueError(f"a mesh without extent cannot be voxelised: all its vertices are at {tuple(low)}")
    in_cells_F33 = (corners_F33 - (low + high) / 2) * (resolution / longest) + resolution / 2
    surface_XYZ = np.zeros((resolution,) * 3, dtype=np.bool_)
    for points_N3 in _surface_points(in_cells_F33):
        x, y, z = np.clip(np.floor(points_N3).astype(np.int64), 0, resolution - 1).T
        surface_XYZ[x, y, z] = True
    filled_XYZ: NDArray[np.bool_] = require("scipy.ndimage").binary_fill_holes(surface_XYZ)
    return filled_XYZ


def _surface_points(corners_F33: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield points (N×3) that cover triangles densely, in chunks of limited size.

    Rows run parallel to a triangle's longest side and shorten towards the opposite corner.
    """
    centres_F13 = corners_F33.mean(axis=1, keepdims=True)
    corners_F33 = corners_F33 + _INWARD * (centres_F13 - corners_F33)
    sides_F3 = np.linalg.norm(np.roll(corners_F33, -1, axis=1) - corners_F33, axis=2)
    start_F = sides_F3.argmax(axis=1)
    order_F3 = (start_F[:, None] + np.arange(3)) % 3
    a_F3, b_F3, c_F3 = np.take_along_axis(corners_F33, order_F3[:, :, None], axis=1).transpose(1, 0, 2)
    normals_F3 = np.cross(b_F3 - a_F3, c_F3 - a_F3)
    doubled_area_F = np.linalg.norm(normals_F3, axis=1)
    longest_F = sides_F3.max(axis=1)
    height_F = doubled_area_F / np.maximum(longest_F, 1e-12)
    inward_F3 = -_INWARD * normals_F3 / np.maximum(doubled_area_F, 1e-12)[:, None]
    columns_F = np.ceil(longest_F / _COLUMN_SPACING).astype(np.int64) + 1
    rows_F = np.ceil(height_F / _ROW_SPACING).astype(np.int64) + 1
    counts_F = columns_F * rows_F
    chunk_F = np.cumsum(counts_F) // _MAX_POINTS_AT_ONCE
    for chunk in np.unique(chunk_F):
        faces = np.flatnonzero(chunk_F == chunk)
        face_N = np.repeat(faces, counts_F[faces])
        place_N = np.arange(len(face_N)) - np.repeat(np.cumsum(counts_F[faces]) - counts_F[faces], counts_F[faces])
        row_N, column_N = np.divmod(place_N, columns_F[face_N])
        along_N1 = (column_N / np.maximum(columns_F[face_N] - 1, 1))[:, None]
        up_N1 = (row_N / np.maximum(rows_F[face_N] - 1, 1))[:, None]
        base_N3 = a_F3[face_N] + along_N1 * (b_F3 - a_F3)[face_N]
        yield base_N3 + up_N1 * (c_F3[face_N] - base_N3) + inward_F3[face_N]


def mesh_from_voxels(
    occupancy_XYZ: ArrayLike, method: Literal["blocky", "marching-cubes"] = "blocky", threshold: float = 0.5
) -> Any:
    """Return the surface of the cells above a threshold as a watertight `trimesh.Trimesh`, normals outward.

    The grid holds occupancies or probabilities (D×D×D); the mesh lies in the unit cube (see the module's text).
    `blocky` keeps the cells' faces; `marching-cubes` interpolates between cells' centres, padded with
    empty cells.

    Raises:
        ValueError: unknown method, a grid that is not three-dimensional, or no cell above the threshold.
    """
    values_XYZ = np.asarray(occupancy_XYZ)
    if values_XYZ.ndim != 3 or len(set(values_XYZ.shape)) != 1:
        raise ValueError(f"a mesh needs a cubic grid, x by y by z, not an array of shape {values_XYZ.shape}")
    values_XYZ = values_XYZ.astype(np.float64)
    if not (values_XYZ > threshold).any():
        raise ValueError(
            f"no cell is above the threshold {threshold}, so there is no mesh to make: "
            f"the largest value is {values_XYZ.max()}"
        )
    if method == "blocky":
        vertices_N3, faces_F3 = _blocky_surface(values_XYZ > threshold)
    elif method == "marching-cubes":
        padded_XYZ = np.pad(values_XYZ, 1, constant_values=min(0.0, threshold - 1))
        vertices_N3, faces_F3, _, _ = require("skimage.measure").marching_cubes(
            padded_XYZ, threshold, gradient_direction="ascent", allow_degenerate=False
        )
        vertices_N3 = vertices_N3 - 0.5
    else:
        raise ValueError(f"unknown method {method!r} (known: 'blocky', 'marching-cubes')")
    scaled_N3 = vertices_N3 / len(values_XYZ) - 0.5
    return require("trimesh").Trimesh(scaled_N3, faces_F3, process=False)


def _blocky_surface(occupied_XYZ: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices (in cells) and faces of the squares between occupied and empty cells.

    Corners are shared, and each square is two triangles.  Where two occupied cells touch along an edge alone, four
    squares meet at it:

        #|          the edge, seen end on: each cell's two squares get a middle point of the edge of their own,
        -+-         so that every edge of the mesh still belongs to exactly two faces; such squares are fans
         |#         about their centre
    """
    padded_XYZ = np.pad(occupied_XYZ, 1)
    corners, owners = [], []
    for axis in range(3):
        for step in (-1, 1):
            outside_XYZ = np.roll(padded_XYZ, -step, axis=axis)
            cells_Q3 = np.argwhere(padded_XYZ & ~outside_XYZ)
            corners.append(cells_Q3[:, None, :] + _square(axis, step))
            owners.append(cells_Q3)
    corners_Q43, owners_Q3 = np.concatenate(corners), np.concatenate(owners)
    doubled_Q43 = 2 * corners_Q43
    next_Q43 = np.roll(doubled_Q43, -1, axis=1)
    middle_Q43 = (doubled_Q43 + next_Q43) // 2
    pinched_Q4 = _pinched(padded_XYZ, doubled_Q43, next_Q43)
    plain_Q = np.logical_not(pinched_Q4.any(axis=1))
    # A vertex is known by its place in half cells and, for the middle of a pinched edge, by the cell it belongs to.
    shape = (2 * len(padded_XYZ) + 2,) * 3
    cell_Q = np.ravel_multi_index(tuple(owners_Q3.T), padded_XYZ.shape) + 1
    corner_key_Q4 = np.ravel_multi_index(tuple(np.moveaxis(doubled_Q43, -1, 0)), shape)
    middle_key_Q4 = np.ravel_multi_index(tuple(np.moveaxis(middle_Q43, -1, 0)), shape) + cell_Q[:, None] * shape[0] ** 3
    centre_Q3 = doubled_Q43.sum(axis=1) // 4
    centre_key_Q4 = np.repeat(np.ravel_multi_index(tuple(centre_Q3.T), shape)[:, None], 4, axis=1)
    next_key_Q4 = np.roll(corner_key_Q4, -1, axis=1)
    whole_Q4, halved_Q4 = ~plain_Q[:, None] & ~pinched_Q4, pinched_Q4
    keys_F3 = np.concatenate(
        [
            corner_key_Q4[plain_Q][:, [0, 1, 2]],
            corner_key_Q4[plain_Q][:, [0, 2, 3]],
            np.stack([corner_key_Q4, next_key_Q4, centre_key_Q4], axis=-1)[whole_Q4],
            np.stack([corner_key_Q4, middle_key_Q4, centre_key_Q4], axis=-1)[halved_Q4],
            np.stack([middle_key_Q4, next_key_Q4, centre_key_Q4], axis=-1)[halved_Q4],
        ]
    )
    keys_N, faces = np.unique(keys_F3, return_inverse=True)
    places_N3 = np.stack(np.unravel_index(keys_N % shape[0] ** 3, shape), axis=1)
    return places_N3 / 2 - 1, faces.reshape(-1, 3)


def _square(axis: int, step: int) -> NDArray[np.int64]:
    """Return the corners (4×3) of a unit cell's side facing along an axis, anticlockwise seen from outside."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    corners_43 = np.zeros((4, 3), dtype=np.int64)
    corners_43[:, axis] = step > 0
    corners_43[:, first] = (0, 1, 1, 0)
    corners_43[:, second] = (0, 0, 1, 1)
    return corners_43 if step > 0 else corners_43[::-1]


def _pinched(
    padded_XYZ: NDArray[np.bool_], doubled_Q43: NDArray[np.int64], next_Q43: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which edges (Q×4) of squares have exactly two diagonal occupied cells round them."""
    pinched_Q4 = np.zeros(doubled_Q43.shape[:2], dtype=np.bool_)
    low_Q43 = np.minimum(doubled_Q43, next_Q43) // 2
    along_Q4 = np.abs(next_Q43 - doubled_Q43).argmax(axis=-1)
    for axis in range(3):
        places_E3 = low_Q43[along_Q4 == axis]
        first, second = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
        shifts = (0 * first, first, first + second, second)
        around_4E = np.stack([padded_XYZ[tuple((places_E3 - shift).T)] for shift in shifts])
        diagonal = (around_4E[0] == around_4E[2]) & (around_4E[1] == around_4E[3]) & (around_4E[0] != around_4E[1])
        pinched_Q4[along_Q4 == axis] = diagonal
    return pinched_Q4
