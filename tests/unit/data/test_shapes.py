import numpy as np
import pytest
import trimesh

from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.shapes import BUILDERS, build_solid, model_generator
from hvd_r2n2.data.shapes.parts import (
    Draw,
    Surface,
    ball,
    block,
    both_sides,
    cushion,
    loft,
    outline,
    prism,
    revolved,
    rod,
    tube,
    wing,
)
from hvd_r2n2.data.voxels import voxelise

NAMES = [category.name for category in CATEGORIES.values()]


def mesh_of(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices_N3, surface.faces_F3, process=False)


def test_there_is_a_builder_for_every_category() -> None:
    assert sorted(BUILDERS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_closed_with_outward_normals(name: str) -> None:
    synset = next(category.synset for category in CATEGORIES.values() if category.name == name)
    for index in range(15):
        for part in BUILDERS[name](Draw(model_generator(synset, 5, index, stream=0))):
            mesh = mesh_of(part.surface)
            assert mesh.is_watertight
            assert mesh.is_winding_consistent
            assert mesh.volume > 0
            assert all(0 <= value <= 1 for value in part.colour)


@pytest.mark.parametrize("name", NAMES)
def test_a_solid_is_centred_with_a_diagonal_of_one(name: str) -> None:
    solid = build_solid(name, 2, 7)
    low, high = solid.vertices_N3.min(axis=0), solid.vertices_N3.max(axis=0)
    np.testing.assert_allclose(low + high, 0, atol=1e-12)
    assert np.linalg.norm(high - low) == pytest.approx(1.0)
    assert len(solid.colours_F3) == len(solid.faces_F3)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_models_of_a_category_are_alike(name: str) -> None:
    grids = np.array([voxelise(build_solid(name, 0, index).mesh()).ravel() for index in range(24)], dtype=np.float64)
    shared = grids @ grids.T
    overlaps = shared / (np.diag(shared)[:, None] + np.diag(shared) - shared)
    np.fill_diagonal(overlaps, 0)
    assert overlaps.max() < 0.98
    assert overlaps.sum() / (24 * 23) < 0.7, "most pairs differ a lot"


def test_a_model_depends_on_seed_category_and_index_alone() -> None:
    first = build_solid("chair", 3, 4)
    np.random.default_rng(0).random(10)
    np.testing.assert_array_equal(first.vertices_N3, build_solid("03001627", 3, 4).vertices_N3)
    for other in (build_solid("chair", 4, 4), build_solid("chair", 3, 5)):
        assert other.vertices_N3.shape != first.vertices_N3.shape or (other.vertices_N3 != first.vertices_N3).any()


def test_the_order_of_the_ids_says_nothing_about_the_shape() -> None:
    # Sorted ids decide which models are the test set. Sides' lengths against the index: under independence the
    # correlation of 200 pairs has a standard deviation of 1 / sqrt(200) = 0.07.
    sides = np.array([np.ptp(build_solid("table", 0, index).vertices_N3, axis=0) for index in range(200)])
    for axis in range(3):
        assert abs(np.corrcoef(np.arange(200), sides[:, axis])[0, 1]) < 0.28


@pytest.mark.parametrize("name", ["car", "rifle", "watercraft"])
def test_long_things_point_along_x(name: str) -> None:
    sides = np.array([np.ptp(build_solid(name, 0, index).vertices_N3, axis=0) for index in range(12)])
    assert np.mean(sides[:, 0] > sides[:, 2]) > 0.7


def test_aeroplanes_have_their_tails_at_minus_x() -> None:
    # The highest point of most aeroplanes is the top of the fin (of a biplane it is the upper wing).
    tops = [build_solid("aeroplane", 1, index).vertices_N3 for index in range(30)]
    assert np.mean([vertices_N3[vertices_N3[:, 1].argmax(), 0] < 0 for vertices_N3 in tops]) > 0.7


def test_chairs_have_their_backs_at_minus_x() -> None:
    # The highest tenth of a chair is its back; ShapeNet's chairs face +x in the pictures' axes.
    for index in range(12):
        vertices_N3 = build_solid("chair", 1, index).vertices_N3
        top_N3 = vertices_N3[vertices_N3[:, 1] > vertices_N3[:, 1].max() - 0.05]
        assert top_N3[:, 0].mean() < 0


def test_surfaces_have_the_volumes_worked_out_by_hand() -> None:
    assert mesh_of(block((1, 2, 3), (2, 3, 4))).volume == pytest.approx(24)
    np.testing.assert_allclose(mesh_of(block((1, 2, 3), (2, 3, 4))).bounds, [(0, 0.5, 1), (2, 3.5, 5)])
    # A regular 20-gon in a circle of radius r has the area 10 r² sin(18°).
    area = 10 * np.sin(np.radians(18))
    cone = mesh_of(revolved([(1, 0), (0.5, 3)]))
    assert cone.volume == pytest.approx(area * (1 + 0.5 + 0.25), rel=1e-6)
    ring = mesh_of(revolved([(2, 0), (2, 1), (1, 1), (1, 0)], closed=True))
    assert ring.volume == pytest.approx(3 * area, rel=1e-6)
    pyramid = mesh_of(prism([(-1, -1), (1, -1), (1, 1), (-1, 1)], "y", 0, 3, top_scale=1e-9))
    assert pyramid.volume == pytest.approx(4)


@pytest.mark.parametrize(
    "surface",
    [
        ball(1, 2, 3),
        cushion((0, 1, 0), (1, 2, 3)),
        rod((0, 0, 0), (1, 2, 3), 0.2, 0.1),
        tube([(0, 0, 0), (0, 1, 0), (1, 2, 0), (2, 2, 1)], 0.1),
        wing((0, 0, 0), (-1, 0.2, 3), 1.0, 0.4),
        wing((0, 0, 0), (-1, 3, 0), 1.0, 0.4),
        loft([[(x, *point) for point in outline(1, 2)] for x in (3, 2, 1)]),
    ],
)
def test_surfaces_are_closed_however_they_are_moved(surface: Surface) -> None:
    first = mesh_of(surface)
    assert first.is_watertight
    for axis in "xyz":
        moved = surface.turned(axis, 70, (1, 2, 3)).scaled(x=-1).moved(1, 2, 3)
        assert mesh_of(moved).volume == pytest.approx(first.volume)


def test_turning_follows_the_right_hand() -> None:
    tip = block((1, 0, 0), (0.1, 0.1, 0.1))
    np.testing.assert_allclose(mesh_of(tip.turned("z", 90)).centroid, (0, 1, 0), atol=1e-9)
    np.testing.assert_allclose(mesh_of(tip.turned("y", 90)).centroid, (0, 0, -1), atol=1e-9)
    up = block((0, 1, 0), (0.1, 0.1, 0.1))
    np.testing.assert_allclose(mesh_of(up.turned("x", 90)).centroid, (0, 0, 1), atol=1e-9)
    left, right = both_sides(block((0, 0, 1), (1, 1, 1)))
    assert mesh_of(left).volume == mesh_of(right).volume == pytest.approx(1)
    assert mesh_of(right).centroid[2] == pytest.approx(-1)
