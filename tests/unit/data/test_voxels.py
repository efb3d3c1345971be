import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from hvd_r2n2.common.extras import require
from hvd_r2n2.data.voxels import mesh_from_voxels, voxelise


def test_a_box_of_whole_cells_fills_exactly_those_cells() -> None:
    occupancy_XYZ = voxelise(trimesh.creation.box(extents=(2.0, 1.0, 0.5)), 32)
    expected_XYZ = np.zeros((32, 32, 32), dtype=bool)
    expected_XYZ[:, 8:24, 12:20] = True
    assert occupancy_XYZ.dtype == np.bool_
    np.testing.assert_array_equal(occupancy_XYZ, expected_XYZ)


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_a_ball_is_filled_and_its_surface_cells_are_the_ones_it_touches(resolution: int) -> None:
    occupancy_XYZ = voxelise(trimesh.creation.icosphere(5).apply_translation((3, -4, 5)), resolution)
    # A cell is occupied if some place of it lies in the ball: compare the cells' nearest places with the radius,
    # leaving out those that the ball's flat faces and the rows of samples decide.
    cell = np.abs(np.arange(resolution) + 0.5 - resolution / 2)
    nearest_XYZ = np.sqrt(sum(np.maximum(axis - 0.5, 0) ** 2 for axis in np.meshgrid(cell, cell, cell, indexing="ij")))
    assert occupancy_XYZ[nearest_XYZ < resolution / 2 - 0.5].all()
    assert not occupancy_XYZ[nearest_XYZ > resolution / 2].any()


def test_an_open_mesh_and_a_mesh_turned_inside_out_are_filled_alike() -> None:
    whole = trimesh.creation.icosphere(3)
    inverted = whole.copy()
    inverted.invert()
    torn = trimesh.Trimesh(whole.vertices, np.delete(whole.faces, 100, axis=0), process=False)
    assert not torn.is_watertight
    expected = voxelise(whole, 16).sum()
    assert voxelise(inverted, 16).sum() == pytest.approx(expected, rel=0.02)
    assert voxelise(torn, 16).sum() == pytest.approx(expected, rel=0.02)


def test_overlapping_parts_are_one_solid_without_a_hole() -> None:
    # Ray parity would hollow out what two closed parts share.
    parts = [trimesh.creation.box(extents=(1, 1, 1)), trimesh.creation.box(extents=(0.5, 1, 1))]
    assert voxelise(trimesh.util.concatenate(parts), 16).all()


def test_thin_parts_stay() -> None:
    # A sheet and a rod a thousandth of a cell thick.
    sheet = trimesh.creation.box(extents=(32, 0.001, 32))
    rod = trimesh.creation.box(extents=(0.001, 32, 0.001))
    occupancy_XYZ = voxelise(trimesh.util.concatenate([sheet, rod]), 32)
    assert occupancy_XYZ.any(axis=1).all()
    assert occupancy_XYZ.any(axis=(0, 2)).all()


def test_a_slanted_sheet_round_an_empty_inside_lets_nothing_through() -> None:
    # Filling works only if the marked cells of an oblique surface have no 6-connected gap.
    turn = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))
    octahedron = trimesh.convex.convex_hull(np.vstack([np.eye(3), -np.eye(3)])).apply_transform(turn)
    occupancy_XYZ = voxelise(octahedron, 48)
    cells_N3 = np.argwhere(np.ones((48, 48, 48), dtype=bool)) + 0.5
    low, high = octahedron.bounds
    places_N3 = (cells_N3 - 24) / 48 * (high - low).max() + (low + high) / 2
    planes = zip(octahedron.triangles[:, 0], octahedron.face_normals, strict=True)
    inside_N = np.all([(places_N3 - corner) @ normal < 0 for corner, normal in planes], axis=0)
    assert inside_N.sum() > 1000
    assert occupancy_XYZ.reshape(-1)[inside_N].all()


def test_a_real_mesh_that_is_not_watertight_is_filled(shared_data: Path) -> None:
    mesh = trimesh.load(shared_data / "meshes" / "dog_0.obj", force="mesh")
    assert not mesh.is_watertight
    occupancy_XYZ = voxelise(mesh, 32)
    occupied = np.argwhere(occupancy_XYZ)
    assert (np.ptp(occupied, axis=0) + 1).max() == 32
    # A shell would have next to no cells with 26 occupied neighbours.
    core = occupancy_XYZ[1:-1, 1:-1, 1:-1].copy()
    for shift in np.ndindex(3, 3, 3):
        core &= occupancy_XYZ[tuple(slice(step, 30 + step) for step in shift)]
    assert core.sum() > 0.3 * occupancy_XYZ.sum()


@pytest.mark.parametrize(
    ("mesh", "resolution", "message"),
    [
        (trimesh.Trimesh(), 32, "0 faces"),
        (trimesh.Trimesh([(1, 1, 1)] * 3, [(0, 1, 2)], process=False), 32, "without extent"),
        (trimesh.creation.box(), 1, "resolution 1 is out of range"),
        (trimesh.creation.box(), 1000, "resolution 1000 is out of range"),
    ],
)
def test_what_cannot_be_voxelised_is_refused(mesh: trimesh.Trimesh, resolution: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voxelise(mesh, resolution)


def test_one_cell_becomes_its_cube_at_its_place() -> None:
    occupancy_XYZ = np.zeros((4, 4, 4), dtype=bool)
    occupancy_XYZ[3, 0, 1] = True
    mesh = mesh_from_voxels(occupancy_XYZ)
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)
    np.testing.assert_allclose(mesh.bounds, [(0.25, -0.5, -0.25), (0.5, -0.25, 0.0)])
    assert mesh.volume == pytest.approx(1 / 64)


def test_only_the_outer_faces_of_a_block_are_kept() -> None:
    mesh = mesh_from_voxels(np.ones((3, 3, 3)))
    assert len(mesh.faces) == 6 * 9 * 2
    assert len(mesh.vertices) == 4**3 - 2**3
    assert mesh.area == pytest.approx(6.0)


@pytest.mark.parametrize(("resolution", "density"), [(2, 0.5), (5, 0.2), (9, 0.5), (16, 0.4)])
def test_blocky_meshes_are_watertight_whatever_touches(resolution: int, density: float) -> None:
    # Random grids have every way in which cells can meet along an edge or at a corner alone.
    generator = np.random.default_rng(resolution)
    for _ in range(5):
        occupancy_XYZ = generator.random((resolution,) * 3) < density
        occupancy_XYZ[0, 0, 0] = True
        mesh = mesh_from_voxels(occupancy_XYZ)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume == pytest.approx(occupancy_XYZ.sum() / resolution**3)
        assert (mesh.area_faces > 0).all()


def test_marching_cubes_gives_a_closed_ball_of_the_right_size() -> None:
    centre = (np.arange(32) + 0.5) / 32 - 0.5
    radius_XYZ = np.sqrt(sum(axis**2 for axis in np.meshgrid(centre, centre, centre, indexing="ij")))
    probability_XYZ = np.clip(0.4 + (0.3 - radius_XYZ) * 4, 0, 1)
    mesh = mesh_from_voxels(probability_XYZ, "marching-cubes", threshold=0.4)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    np.testing.assert_allclose(mesh.centroid, 0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_marching_cubes_is_closed_where_the_object_meets_the_grids_border(threshold: float) -> None:
    mesh = mesh_from_voxels(np.ones((4, 4, 4)), "marching-cubes", threshold)
    assert mesh.is_watertight
    assert 27 / 64 < mesh.volume < 1.25**3


def test_a_mesh_voxelises_back_to_its_cells() -> None:
    occupancy_XYZ = np.random.default_rng(1).random((8, 8, 8)) < 0.3
    occupancy_XYZ[0], occupancy_XYZ[-1] = True, True
    back_XYZ = voxelise(mesh_from_voxels(occupancy_XYZ), 8)
    # Filling closes what the cells enclose; nothing else changes.
    assert back_XYZ[occupancy_XYZ].all()
    assert (back_XYZ & ~occupancy_XYZ).sum() <= 3


@pytest.mark.parametrize(
    ("grid", "method", "message"),
    [
        (np.zeros((4, 4, 4)), "blocky", "no cell is above the threshold 0.5"),
        (np.ones((4, 4)), "blocky", "cubic grid"),
        (np.ones((4, 4, 5)), "blocky", "cubic grid"),
        (np.ones((4, 4, 4)), "smooth", "unknown method 'smooth'"),
    ],
)
def test_what_has_no_mesh_is_refused(grid: np.ndarray, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mesh_from_voxels(grid, method)  # type: ignore[arg-type]


def test_a_missing_library_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ModuleNotFoundError, match=r"trimesh is not installed.*pip install 'hvd_r2n2\[shapes\]'"):
        require("trimesh")
