from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.telemetry.pictures import (
    BACKGROUND,
    captioned_grid,
    draw_voxels,
    reconstruction_grid,
    reconstruction_picture,
)


def _silhouette(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - BACKGROUND).max(axis=2) > 12


def _centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def _one_cell(side: int, *cell: int) -> np.ndarray:
    grid = np.zeros((side,) * 3, dtype=bool)
    grid[cell] = True
    return grid


def test_an_empty_grid_is_an_empty_picture() -> None:
    picture = draw_voxels(np.zeros((32, 32, 32)), 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert (picture == BACKGROUND).all()


def test_a_cube_seen_from_its_corner_is_a_symmetric_hexagon_of_three_shades() -> None:
    picture = draw_voxels(np.ones((1, 1, 1)), 256)
    mask = _silhouette(picture)
    assert np.abs(mask.astype(int) - mask[:, ::-1]).mean() < 0.01
    # Elevation 30°: a diagonal is √2 wide, a vertical edge cos 30° high, the top (and bottom) √2·sin 30° high.
    rows, columns = np.nonzero(mask)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert height / width == pytest.approx((np.cos(np.pi / 6) + np.sqrt(0.5)) / np.sqrt(2), rel=0.02)
    # The hexagon is its box less four triangles, each half the box's half width by half the top's height.
    share = 1 - (np.sqrt(2) * np.sqrt(0.5) / 2) / (np.sqrt(2) * (np.cos(np.pi / 6) + np.sqrt(0.5)))
    assert mask.sum() / (width * height) == pytest.approx(share, rel=0.02)
    top, left, right = picture[80, 128], picture[150, 90], picture[150, 166]
    assert top.sum() > left.sum() > right.sum()


def test_the_axes_point_as_in_the_renderings() -> None:
    frame = np.ones((9, 9, 9))
    middle = _centre(_silhouette(draw_voxels(_one_cell(9, 4, 4, 4), 256, azimuth=0, frame_XYZ=frame)))
    above = _centre(_silhouette(draw_voxels(_one_cell(9, 4, 8, 4), 256, azimuth=0, frame_XYZ=frame)))
    towards = _centre(_silhouette(draw_voxels(_one_cell(9, 8, 4, 4), 256, azimuth=0, frame_XYZ=frame)))
    sideways = _centre(_silhouette(draw_voxels(_one_cell(9, 4, 4, 8), 256, azimuth=0, frame_XYZ=frame)))
    assert middle == pytest.approx((127.5, 127.5), abs=1)
    assert above[0] == pytest.approx(middle[0], abs=1)
    assert above[1] < middle[1] - 30
    # From azimuth 0 the camera looks down from +x: +x comes nearer (lower in the picture), +z lies to the left.
    assert towards[0] == pytest.approx(middle[0], abs=1)
    assert towards[1] > middle[1] + 30
    assert sideways[0] < middle[0] - 30
    assert sideways[1] == pytest.approx(middle[1], abs=1)


def test_the_nearer_cube_hides_the_farther_one() -> None:
    frame = np.ones((5, 5, 5))
    near, far = _one_cell(5, 4, 2, 2), _one_cell(5, 0, 0, 2)  # one line of sight from azimuth 0, elevation ~27°
    elevation = float(np.degrees(np.arctan2(2, 4)))
    alone = draw_voxels(near, 128, azimuth=0, elevation=elevation, frame_XYZ=frame)
    both = draw_voxels(near | far, 128, azimuth=0, elevation=elevation, frame_XYZ=frame)
    assert (alone == both).all()


def test_turning_the_grid_and_the_camera_alike_changes_nothing_but_the_light() -> None:
    random = np.random.default_rng(0)
    grid = random.random((6, 6, 6)) < 0.3
    frame = np.ones((6, 6, 6))
    seen = _silhouette(draw_voxels(grid, 128, azimuth=20, frame_XYZ=frame))
    # A quarter turn takes +x to +z, as azimuth does.
    turned = _silhouette(draw_voxels(np.rot90(grid, axes=(0, 2)), 128, azimuth=110, frame_XYZ=frame))
    assert np.mean(seen != turned) < 0.002


def test_a_mirrored_grid_is_a_mirrored_outline() -> None:
    grid = np.random.default_rng(1).random((6, 6, 6)) < 0.2
    seen = _silhouette(draw_voxels(grid, 128, frame_XYZ=np.ones((6, 6, 6))))
    mirrored = _silhouette(draw_voxels(grid.transpose(2, 1, 0), 128, frame_XYZ=np.ones((6, 6, 6))))
    assert np.mean(seen[:, ::-1] != mirrored) < 0.02


def test_everything_stays_inside_the_picture() -> None:
    for azimuth in range(0, 360, 15):
        picture = draw_voxels(np.ones((4, 4, 4)), 96, azimuth=azimuth)
        for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
            assert (edge == BACKGROUND).all()


def test_real_objects_have_the_outlines_of_their_renderings(shared_data: Path) -> None:
    root = shared_data / "r2n2_samples"
    for synset, least in (("02958343", 0.8), ("03001627", 0.65)):  # car, chair
        grid = read_binvox(root / "ShapeNetVox32" / synset / "sample" / "model.binvox").occupancy_XYZ
        folder = root / "ShapeNetRendering" / synset / "sample" / "rendering"
        lines = (folder / "rendering_metadata.txt").read_text().splitlines()[:6]
        right, wrong = [], []
        for view, line in enumerate(lines):
            azimuth, elevation = map(float, line.split()[:2])
            alpha = np.asarray(Image.open(folder / f"{view:02d}.png"))[..., 3] > 0
            for angle, found in ((azimuth, right), (-azimuth, wrong)):
                outline = _silhouette(draw_voxels(grid, 256, azimuth=angle, elevation=elevation))
                found.append(_overlap(alpha, outline))
        # The renderings are in perspective and the voxels coarse, so the outlines agree but roughly.
        assert np.mean(right) > least
        assert np.mean(right) > np.mean(wrong) + 0.1


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two outlines after cutting both to their bounding boxes."""
    boxes = []
    for mask in (first, second):
        rows, columns = np.nonzero(mask)
        box = Image.fromarray(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
        boxes.append(np.asarray(box.resize((64, 64))))
    return float((boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum())


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (np.ones((4, 4, 5)), {}, "cubic, D×D×D, not 4×4×5"),
        (np.ones((4, 4)), {}, "not 4×4"),
        (np.ones((4, 4, 4)), {"size": 0}, "0 pixels"),
        (np.ones((4, 4, 4)), {"elevation": 0.0}, "from above"),
        (np.ones((4, 4, 4)), {"frame_XYZ": np.ones((2, 2, 2))}, "frame's shape"),
    ],
)
def test_impossible_pictures_are_refused(grid: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_voxels(grid, **options)


def test_a_row_has_inputs_truth_and_prediction_side_by_side() -> None:
    red = np.full((137, 137, 3), (200, 0, 0), dtype=np.uint8)
    clear = np.zeros((137, 137, 4), dtype=np.uint8)
    grid = np.ones((4, 4, 4), dtype=bool)
    row = reconstruction_picture([red, clear], grid, np.zeros_like(grid), size=64)
    gap = row.shape[0] - 64
    cells = [row[gap // 2 : gap // 2 + 64, gap // 2 + i * (64 + gap // 2) :][:, :64] for i in range(4)]
    assert (cells[0] == (200, 0, 0)).all()
    assert (cells[1] == BACKGROUND).all()  # transparent
    assert _silhouette(cells[2]).any()
    assert not _silhouette(cells[3]).any()
    without_truth = reconstruction_picture([red, clear], None, grid, size=64)
    assert row.shape[1] - without_truth.shape[1] == 64 + gap // 2


def test_truth_and_prediction_share_one_frame() -> None:
    small, large = np.zeros((8, 8, 8), dtype=bool), np.ones((8, 8, 8), dtype=bool)
    small[3:5, 3:5, 3:5] = True
    row = reconstruction_picture([], small, large, size=128)
    left, right = _silhouette(row[:, : row.shape[1] // 2]), _silhouette(row[:, row.shape[1] // 2 :])
    assert left.sum() == pytest.approx(right.sum() / 16, rel=0.1)  # a quarter of the side each way


def test_headings_stand_above_their_columns() -> None:
    grid = np.zeros((4, 4, 4), dtype=bool)
    samples = [([], grid, grid)] * 3
    plain, headed = reconstruction_grid(samples, size=96), reconstruction_grid(samples, ["truth", "made"], size=96)
    assert headed.shape[0] > plain.shape[0]
    strip = _silhouette(headed[: headed.shape[0] - plain.shape[0] + 2])
    half = strip.shape[1] // 2
    assert _centre(strip[:, :half])[0] == pytest.approx(half / 2, abs=4)
    assert _centre(strip[:, half:])[0] == pytest.approx(half / 2, abs=4)
    with pytest.raises(ValueError, match="3 titles for 2 columns"):
        reconstruction_grid(samples, ["a", "b", "c"])
    with pytest.raises(ValueError, match="same number of cells"):
        reconstruction_grid([([], grid, grid), ([], None, grid)])


def test_pictures_stand_in_rows_above_their_captions_red_where_they_are_wrong() -> None:
    colours = [(0, 20 * number, 200 - 20 * number) for number in range(9)]
    solid = [np.full((10, 10, 4), (*colour, 255), dtype=np.uint8) for colour in colours]
    sheet = captioned_grid([(image, "chair", number != 1) for number, image in enumerate(solid)])
    height, width, _ = sheet.shape
    for number, colour in enumerate(colours):  # eight in a row
        place = (height // 4 + number // 8 * height // 2, width // 16 + number % 8 * width // 8)
        assert (sheet[place] == colour).all()
    assert (sheet[height // 2 :, width // 8 + 10 :] == BACKGROUND).all()  # there is no tenth
    captions = sheet[160 + 6 : height // 2].astype(int)
    redness = captions[..., 0] - captions[..., 2]
    assert redness[:, width // 8 : width // 4].max() > 80
    assert redness[:, : width // 8].max() < 20
    assert redness[:, width // 4 :].max() < 20
    with pytest.raises(ValueError, match="no pictures"):
        captioned_grid([])
