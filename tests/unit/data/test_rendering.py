from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.data.camera import Camera, parse_metadata
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.rendering import render_views
from hvd_r2n2.data.shapes import build_solid
from hvd_r2n2.data.voxels import mesh_from_voxels, voxelise

# Four views, a quarter turn apart and off the axes.
CAMERAS = tuple(Camera(azimuth, 27.5, 0.8) for azimuth in (35.0, 125.0, 215.0, 305.0))


def disc_pixels(radius: float, camera: Camera) -> float:
    # The outline of a sphere about the origin is a circle: tan(asin(r / d)) of the picture's plane.
    distance = float(np.linalg.norm(camera.position()))
    return float(np.pi * (137 * 35 / 32 * np.tan(np.arcsin(radius / distance))) ** 2)


def covered(mesh: trimesh.Trimesh, camera: Camera, rays_a_side: int) -> np.ndarray:
    """Which rays through each pixel of a whole frame meet a mesh (H×W×S), by trimesh alone."""
    steps = (np.arange(rays_a_side) + 0.5) / rays_a_side
    y, x, dy, dx = np.meshgrid(np.arange(137), np.arange(137), steps, steps, indexing="ij")
    directions_R3 = camera.ray_directions(np.stack([(x + dx).ravel(), (y + dy).ravel()], axis=1))
    origins_R3 = np.broadcast_to(camera.position(), directions_R3.shape)
    return mesh.ray.intersects_any(origins_R3, directions_R3).reshape(137, 137, -1)


def silhouette(mesh: trimesh.Trimesh, camera: Camera) -> np.ndarray:
    """Which pixels' centres a mesh covers."""
    return covered(mesh, camera, 1)[..., 0]


def overlap(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """Intersection over union."""
    return float((first_HW & second_HW).sum() / (first_HW | second_HW).sum())


def picture_scale(occupancy_XYZ: np.ndarray) -> float:
    """Longest side over diagonal of the occupied cells' bounding box."""
    sides = np.ptp(np.argwhere(occupancy_XYZ), axis=0) + 1
    return float(sides.max() / np.linalg.norm(sides))


def test_a_sphere_covers_the_area_worked_out_by_hand() -> None:
    camera, sphere = Camera(40, 27, 0.8), trimesh.creation.icosphere(5, radius=0.4)
    (picture_HW4,) = render_views(sphere, np.ones((len(sphere.faces), 3)), [camera])
    assert picture_HW4.shape == (137, 137, 4)
    assert picture_HW4.dtype == np.uint8
    expected = disc_pixels(0.4, camera)
    assert picture_HW4[..., 3].sum() / 255 == pytest.approx(expected, rel=0.005)
    assert silhouette(sphere, camera).sum() == pytest.approx(expected, rel=0.01)
    rows, columns = np.nonzero(picture_HW4[..., 3])
    assert rows.mean() + 0.5 == pytest.approx(68.5, abs=0.1)
    assert columns.mean() + 0.5 == pytest.approx(68.5, abs=0.1)


def test_outside_is_transparent_black_and_edges_are_between() -> None:
    sphere = trimesh.creation.icosphere(4, radius=0.3)
    (picture_HW4,) = render_views(sphere, np.ones((len(sphere.faces), 3)), CAMERAS[:1])
    alpha_HW = picture_HW4[..., 3]
    assert not picture_HW4[alpha_HW == 0].any()
    assert set(np.unique(alpha_HW)) == {0, 64, 128, 191, 255}


def test_the_nearer_face_hides_the_farther_and_keeps_its_hue() -> None:
    near = trimesh.creation.box(extents=(0.1, 0.3, 0.3)).apply_translation((0.3, 0, 0))
    far = trimesh.creation.box(extents=(0.1, 0.5, 0.5)).apply_translation((-0.3, 0, 0))
    colours_F3 = np.repeat([(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)], 12, axis=0)
    mesh = trimesh.util.concatenate([near, far])
    front_HW4, back_HW4 = render_views(mesh, colours_F3, [Camera(0, 0, 0.9), Camera(180, 0, 0.9)])
    assert front_HW4[68, 68, 0] > 100
    assert front_HW4[68, 68, 2] == 0
    assert back_HW4[68, 68, 2] > 60
    assert back_HW4[68, 68, 0] == 0
    assert front_HW4[68, 68, 0] > back_HW4[68, 68, 2], "the light comes from the front"


def test_a_view_does_not_depend_on_what_lies_outside_its_window() -> None:
    # The rays are cast only where the mesh can be; a whole frame of rays finds the same.
    solid = build_solid("chair", 0, 0)
    mesh, camera = solid.mesh(), CAMERAS[0]
    (picture_HW4,) = render_views(mesh, solid.colours_F3, [camera])
    whole_HW = covered(mesh, camera, 2).mean(axis=-1)
    np.testing.assert_array_equal(picture_HW4[..., 3], np.rint(255 * whole_HW))


def test_a_camera_within_the_mesh_is_refused() -> None:
    with pytest.raises(ValueError, match="inside or before the mesh"):
        render_views(trimesh.creation.box(extents=(4, 4, 4)), np.ones((12, 3)), CAMERAS[:1])


@pytest.mark.parametrize(("synset", "least"), [("02691156", 0.6), ("02958343", 0.8), ("03001627", 0.82)])
def test_the_camera_puts_real_voxels_over_the_published_pictures(shared_data: Path, synset: str, least: float) -> None:
    # The means are 0.62, 0.82 and 0.85; the cells' width is what keeps a thin wing from more.
    root = shared_data / "r2n2_samples"
    voxels = read_binvox(root / "ShapeNetVox32" / synset / "sample" / "model.binvox")
    folder = root / "ShapeNetRendering" / synset / "sample" / "rendering"
    cameras = parse_metadata((folder / "rendering_metadata.txt").read_text().splitlines())
    mesh = mesh_from_voxels(voxels.occupancy_XYZ).apply_scale(voxels.scale)
    overlaps, uncovered = [], []
    for view, camera in enumerate(cameras):
        covered_HW = silhouette(mesh, camera)
        picture_HW = np.asarray(Image.open(folder / f"{view:02d}.png"))[..., 3] > 127
        overlaps.append(overlap(covered_HW, picture_HW))
        uncovered.append((picture_HW & ~covered_HW).sum() / picture_HW.sum())
    assert len(overlaps) == 24
    assert np.mean(overlaps) > least
    # Cells are occupied wherever the surface passes, so next to nothing of the picture lies outside them.
    assert np.mean(uncovered) < 0.005


def test_the_published_pictures_show_objects_with_a_bounding_box_diagonal_of_one(shared_data: Path) -> None:
    # The lowest points of the real chair are the corners of its legs, given by its binvox header: translate is the
    # mesh's lowest corner, scale its height. Their projection meets the lowest covered row of each picture.
    root = shared_data / "r2n2_samples"
    voxels = read_binvox(root / "ShapeNetVox32" / "03001627" / "sample" / "model.binvox")
    x, y, z = voxels.translate
    assert np.linalg.norm((2 * x, voxels.scale, 2 * z)) == pytest.approx(1.0, abs=1e-5)
    feet_43 = np.array([(sx * x, y, sz * z) for sx in (-1, 1) for sz in (-1, 1)])
    folder = root / "ShapeNetRendering" / "03001627" / "sample" / "rendering"
    cameras = parse_metadata((folder / "rendering_metadata.txt").read_text().splitlines())
    for view, camera in enumerate(cameras):
        coverage_H = np.asarray(Image.open(folder / f"{view:02d}.png"))[..., 3].max(axis=1) / 255
        last = int(np.flatnonzero(coverage_H)[-1])
        pixels_N2, _ = camera.project(feet_43)
        assert pixels_N2[:, 1].max() == pytest.approx(last + coverage_H[last], abs=0.75)


def test_voxels_and_pictures_of_the_built_in_shapes_agree() -> None:
    means = []
    for category in CATEGORIES.values():
        overlaps = []
        for index in range(3):
            solid = build_solid(category.name, 0, index)
            occupancy_XYZ = voxelise(solid.mesh(), 32)
            blocks = mesh_from_voxels(occupancy_XYZ).apply_scale(picture_scale(occupancy_XYZ))
            pictures = render_views(solid.mesh(), solid.colours_F3, CAMERAS)
            exact = mesh_from_voxels(occupancy_XYZ).apply_scale(np.ptp(solid.vertices_N3, axis=0).max())
            covered_HW = silhouette(exact, CAMERAS[0])
            assert (pictures[0][..., 3] > 127)[~covered_HW].sum() < 0.005 * covered_HW.sum()
            overlaps += [
                overlap(silhouette(blocks, camera), picture_HW4[..., 3] > 127)
                for camera, picture_HW4 in zip(CAMERAS, pictures, strict=True)
            ]
        means.append(np.mean(overlaps))
        # A rifle or a wing is thinner than the cells it passes through, as the real aeroplane's (0.62).
        assert np.mean(overlaps) > 0.5, category
    assert np.mean(means) > 0.75
