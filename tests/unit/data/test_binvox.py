import io
from pathlib import Path

import numpy as np
import pytest
import trimesh

from hvd_r2n2.data.binvox import read_binvox, write_binvox

HEADER = b"#binvox 1\ndim 2 2 2\ntranslate -0.5 0 1.5\nscale 2\ndata\n"


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.binvox"
    path.write_bytes(data)
    return path


def test_hand_made_bytes_are_read_with_y_running_fastest_then_z(tmp_path: Path) -> None:
    # Stored order x, z, y: voxel n is x = n // 4, z = n // 2 % 2, y = n % 2. Set: n = 1 (0,1,0), n = 6 (1,0,1).
    voxels = read_binvox(write(tmp_path, HEADER + bytes([0, 1, 1, 1, 0, 4, 1, 1, 0, 1])))
    expected = np.zeros((2, 2, 2), dtype=bool)
    expected[0, 1, 0] = expected[1, 0, 1] = True
    assert voxels.occupancy_XYZ.dtype == np.bool_
    np.testing.assert_array_equal(voxels.occupancy_XYZ, expected)
    assert voxels.translate == (-0.5, 0.0, 1.5)
    assert voxels.scale == 2.0


def test_writing_gives_the_bytes_worked_out_by_hand(tmp_path: Path) -> None:
    grid = np.zeros((2, 2, 2), dtype=bool)
    grid[0, 1, 0] = grid[1, 0, 1] = True
    write_binvox(tmp_path / "model.binvox", grid, translate=(-0.5, 0, 1.5), scale=2)
    assert (tmp_path / "model.binvox").read_bytes() == HEADER + bytes([0, 1, 1, 1, 0, 4, 1, 1, 0, 1])


def test_runs_longer_than_255_are_cut(tmp_path: Path) -> None:
    grid = np.zeros((8, 8, 8), dtype=np.uint8)
    grid[7, 7, 7] = 1  # 511 zeros = 255 + 255 + 1, then a one
    write_binvox(tmp_path / "model.binvox", grid)
    data = (tmp_path / "model.binvox").read_bytes().split(b"data\n", 1)[1]
    assert data == bytes([0, 255, 0, 255, 0, 1, 1, 1])
    grid[...] = 1  # 512 ones = 255 + 255 + 2
    write_binvox(tmp_path / "model.binvox", grid)
    assert (tmp_path / "model.binvox").read_bytes().endswith(b"data\n" + bytes([1, 255, 1, 255, 1, 2]))


@pytest.mark.parametrize("resolution", [2, 3, 16, 33])
def test_trimesh_reads_what_is_written_and_the_other_way_round(tmp_path: Path, resolution: int) -> None:
    grid = np.random.default_rng(resolution).random((resolution,) * 3) < 0.4
    path = tmp_path / "model.binvox"
    write_binvox(path, grid, translate=(0.25, -1, 3), scale=1.5)
    with path.open("rb") as file:
        theirs = trimesh.exchange.binvox.load_binvox(file)
    np.testing.assert_array_equal(np.asarray(theirs.matrix), grid)
    np.testing.assert_allclose(theirs.translation, (0.25, -1, 3))

    encoding = trimesh.voxel.encoding.DenseEncoding(grid)
    exported = trimesh.exchange.binvox.export_binvox(trimesh.voxel.VoxelGrid(encoding), axis_order="xzy")
    np.testing.assert_array_equal(read_binvox(write(tmp_path, exported)).occupancy_XYZ, grid)


def test_real_models_are_read_as_trimesh_reads_them_and_survive_a_round_trip(shared_data: Path, tmp_path: Path) -> None:
    paths = sorted(shared_data.glob("r2n2_samples/ShapeNetVox32/*/*/model.binvox"))
    assert len(paths) == 3
    for path in paths:
        voxels = read_binvox(path, resolution=32)
        theirs = trimesh.exchange.binvox.load_binvox(io.BytesIO(path.read_bytes()))
        np.testing.assert_array_equal(voxels.occupancy_XYZ, np.asarray(theirs.matrix))
        write_binvox(tmp_path / "copy.binvox", voxels.occupancy_XYZ, voxels.translate, voxels.scale)
        assert (tmp_path / "copy.binvox").read_bytes() == path.read_bytes()


WHOLE = bytes([0, 8])
MALFORMED = {
    "an empty file": (b"", "not a binvox file"),
    "another format": (b"ply\nformat ascii 1.0\n", "not a binvox file"),
    "another version": (HEADER.replace(b"binvox 1", b"binvox 2") + WHOLE, "not a binvox file"),
    "no data line": (b"#binvox 1\ndim 2 2 2\ntranslate 0 0 0\nscale 1\n", "no 'data' line"),
    "no dim": (HEADER.replace(b"dim 2 2 2\n", b"") + WHOLE, "lacks dim"),
    "no translate and no scale": (b"#binvox 1\ndim 2 2 2\ndata\n" + WHOLE, "lacks translate, scale"),
    "two dims": (HEADER.replace(b"scale", b"dim 2 2 2\nscale") + WHOLE, "two 'dim' lines"),
    "an unknown line": (HEADER.replace(b"scale", b"scala") + WHOLE, "unknown line"),
    "dim of words": (HEADER.replace(b"2 2 2", b"2 two 2") + WHOLE, "not three whole numbers"),
    "dim of two": (HEADER.replace(b"2 2 2", b"2 2") + WHOLE, "not three whole numbers"),
    "dim of huge digits": (HEADER.replace(b"2 2 2", b"9" * 400 + b" 2 2") + WHOLE, "not three whole numbers"),
    "dim negative": (HEADER.replace(b"2 2 2", b"-2 -2 2") + WHOLE, "out of range"),
    "dim zero": (HEADER.replace(b"2 2 2", b"0 0 0"), "out of range"),
    "dim too large": (HEADER.replace(b"2 2 2", b"100000 100000 100000") + WHOLE, "out of range; a side is 1 to 512"),
    "not a cube": (HEADER.replace(b"2 2 2", b"2 2 4") + bytes([0, 16]), "not a cube"),
    "translate of two": (HEADER.replace(b"-0.5 0 1.5", b"0 0") + WHOLE, "translate '0 0'"),
    "scale nan": (HEADER.replace(b"scale 2", b"scale nan") + WHOLE, "scale 'nan'"),
    "no runs": (HEADER, "end too early: 0 of 8"),
    "truncated runs": (HEADER + bytes([0, 5]), "end too early: 5 of 8"),
    "half a run": (HEADER + bytes([0, 5, 1]), "end too early: 5 of 8"),
    "an overrun": (HEADER + bytes([0, 5, 1, 4]), "overrun the grid: run 1 ends at voxel 9 of 8"),
    "a run of nothing": (HEADER + bytes([0, 5, 1, 0, 1, 3]), "run 1 has length 0"),
    "a value of 2": (HEADER + bytes([0, 5, 2, 3]), "run 1 has the value 2"),
    "a run too many": (HEADER + WHOLE + bytes([1, 1]), "after the last binvox run, from byte 2"),
    "a byte too many": (HEADER + WHOLE + b"\n", "after the last binvox run, from byte 2"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_file_is_refused_by_name_and_reason(tmp_path: Path, kind: str) -> None:
    data, message = MALFORMED[kind]
    path = write(tmp_path, data)
    with pytest.raises(ValueError) as caught:
        read_binvox(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_with_any_byte_changed_is_read_or_refused_with_a_value_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    whole = HEADER + bytes([0, 1, 1, 1, 0, 4, 1, 1, 0, 1])
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        changed[generator.integers(len(whole))] = generator.integers(256)
        try:
            assert read_binvox(write(tmp_path, bytes(changed))).occupancy_XYZ.shape == (2, 2, 2)
        except ValueError:
            refused += 1
    assert 0 < refused < 500


def test_another_resolution_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a side of 2, not 32"):
        read_binvox(write(tmp_path, HEADER + WHOLE), resolution=32)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros((2, 2, 3)), "shape (2, 2, 3)"),
        (np.zeros((2, 2)), "shape (2, 2)"),
        (np.zeros((0, 0, 0)), "shape (0, 0, 0)"),
        (np.full((2, 2, 2), 0.5), "holds only 0 and 1"),
    ],
)
def test_what_is_no_occupancy_grid_is_not_written(tmp_path: Path, grid: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        write_binvox(tmp_path / "model.binvox", grid)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
