import errno
import fcntl
import hashlib
import json
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvd_r2n2.data import shapes_writer
from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.data.camera import parse_metadata
from hvd_r2n2.data.shapes import build_solid
from hvd_r2n2.data.shapes_writer import model_id, write_shapes
from hvd_r2n2.data.voxels import voxelise


def digests(root: Path) -> dict[str, str]:
    """The content of every file but the lock, by its place."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".shapes.lock"
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, 2, categories=["chair", "lamp"], seed=5, processes=1)
    return root


def test_the_layout_is_shapenets(written: Path) -> None:
    for synset, name in (("03001627", "chair"), ("03636649", "lamp")):
        for index in range(2):
            folder = written / "ShapeNetRendering" / synset / model_id(name, 5, index) / "rendering"
            names = (folder / "renderings.txt").read_text().splitlines()
            assert names == [f"{view:02d}.png" for view in range(24)]
            assert sorted(path.name for path in folder.iterdir()) == [
                *names,
                "rendering_metadata.txt",
                "renderings.txt",
            ]
            for picture in names:
                image = Image.open(folder / picture)
                assert (image.size, image.mode) == ((137, 137), "RGBA")
            assert len(parse_metadata((folder / "rendering_metadata.txt").read_text().splitlines())) == 24
            voxels = read_binvox(written / "ShapeNetVox32" / synset / model_id(name, 5, index) / "model.binvox")
            np.testing.assert_array_equal(voxels.occupancy_XYZ, voxelise(build_solid(name, 5, index).mesh(), 32))
    assert sorted(path.name for path in written.iterdir()) == [
        ".shapes.lock",
        "ShapeNetRendering",
        "ShapeNetVox32",
        "shapes.json",
    ]


def test_the_binvox_header_says_where_the_mesh_lies_in_the_pictures(written: Path) -> None:
    voxels = read_binvox(written / "ShapeNetVox32" / "03001627" / "chair-5-00001" / "model.binvox")
    vertices_N3 = build_solid("chair", 5, 1).vertices_N3
    np.testing.assert_allclose(voxels.translate, vertices_N3.min(axis=0), atol=1e-8)
    assert voxels.scale == pytest.approx(np.ptp(vertices_N3, axis=0).max(), abs=1e-8)


def test_the_bytes_are_the_same_for_one_process_and_two(written: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = write_shapes(tmp_path, 2, categories=["03636649", "chair"], seed=5, processes=2, report=said.append)
    assert digests(tmp_path) == digests(written)
    assert said[0] == f"making 4 built-in shapes in {tmp_path}"
    assert (report.num_models, report.num_new_models, report.num_pictures) == (4, 4, 96)
    # All the bytes but those of shapes.json.
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path]
    assert report.new_bytes == sum(path.stat().st_size for path in files)


def test_a_larger_number_and_another_resolution_add_what_is_missing(tmp_path: Path) -> None:
    write_shapes(tmp_path, 1, categories=["table"], num_views=2)
    before = digests(tmp_path)
    more = write_shapes(tmp_path, 3, categories=["table"], num_views=2)
    assert (more.num_models, more.num_new_models) == (3, 2)
    finer = write_shapes(tmp_path, 1, categories=["table"], num_views=2, resolution=64)
    assert finer.num_new_models == 1
    voxels = read_binvox(tmp_path / "ShapeNetVox64" / "04379243" / "table-0-00000" / "model.binvox")
    assert voxels.occupancy_XYZ.shape == (64, 64, 64)
    after = digests(tmp_path)
    assert {place: after[place] for place in before} == before
    assert write_shapes(tmp_path, 3, categories=["table"], num_views=2).num_new_models == 0


def test_a_model_that_lost_its_voxels_gets_them_back(tmp_path: Path) -> None:
    write_shapes(tmp_path, 2, categories=["rifle"], num_views=1)
    whole = digests(tmp_path)
    lost = tmp_path / "ShapeNetVox32" / "04090263" / "rifle-0-00001"
    (lost / "model.binvox").unlink()
    lost.rmdir()
    assert write_shapes(tmp_path, 2, categories=["rifle"], num_views=1).num_new_models == 1
    assert digests(tmp_path) == whole


def test_a_folder_keeps_one_seed_and_one_number_of_views(tmp_path: Path) -> None:
    write_shapes(tmp_path, 1, categories=["bench"], num_views=1, seed=3)
    with pytest.raises(ValueError, match="shapes of seed 3, not 4; choose another folder, or seed 3"):
        write_shapes(tmp_path, 1, categories=["bench"], num_views=1, seed=4)
    with pytest.raises(ValueError, match="num views 1, not 2"):
        write_shapes(tmp_path, 1, categories=["bench"], num_views=2, seed=3)


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ShapeNetRendering").mkdir()
    with pytest.raises(ValueError, match="holds ShapeNetRendering but no shapes.json"):
        write_shapes(tmp_path, 1)
    (tmp_path / "ShapeNetRendering").rmdir()
    (tmp_path / "shapes.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(ValueError, match="not a record of built-in shapes"):
        write_shapes(tmp_path, 1)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        write_shapes(file, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models_per_category": 0}, "models per category 0 is out of range: it must be 1 to"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"num_views": 101}, "number of views 101 is out of range: it must be 1 to 100"),
        ({"resolution": 1}, "voxel resolution 1"),
        ({"processes": 0}, "number of processes 0"),
        ({"categories": ["chiar"]}, "did you mean 'chair'"),
        ({"categories": []}, "no category is chosen"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"models_per_category": 1} | settings
    with pytest.raises(ValueError, match=message):
        write_shapes(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_writer_waits_for_another_and_says_so(tmp_path: Path) -> None:
    write_shapes(tmp_path, 1, categories=["bench"], num_views=1)
    said: list[str] = []
    with (tmp_path / ".shapes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_shapes(tmp_path, 1, categories=["bench"], num_views=1, report=said.append)  # there is nothing to make
        assert said == []
        second = threading.Thread(
            target=write_shapes,
            args=(tmp_path, 2),
            kwargs={"categories": ["bench"], "num_views": 1, "report": said.append},
        )
        second.start()
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert second.is_alive()
    second.join(30)
    assert not second.is_alive()
    assert said[0] == f"waiting for another process, which is writing shapes to {tmp_path}"
    assert said[1].startswith("making 1 built-in shapes")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=r"has no file locks .*; choose a folder on a local disk"):
        write_shapes(tmp_path, 1)


def test_a_worker_that_dies_or_fails_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    def start_doomed() -> "subprocess.Popen[str]":
        process = subprocess.Popen(["false"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    monkeypatch.setattr(shapes_writer, "_start_worker", start_doomed)
    with pytest.raises((RuntimeError, OSError), match="making bench-0-00000"):
        write_shapes(tmp_path, 1, categories=["bench"])
    assert started[0].poll() is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shapes.lock", "shapes.json"]


@pytest.mark.parametrize("line", ["a warning of a library", "5", '{"byte": 5}'])
def test_a_worker_that_writes_something_else_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def start_talkative() -> "subprocess.Popen[str]":
        command = ["sh", "-c", 'echo "$0"; cat > /dev/null', line]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(shapes_writer, "_start_worker", start_talkative)
    with pytest.raises(RuntimeError, match="making bench-0-00000: its process wrote .* instead of an answer") as found:
        write_shapes(tmp_path, 1, categories=["bench"])
    assert repr(line) in str(found.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shapes.lock", "shapes.json"]


def test_an_error_while_writing_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shapes_writer, "show_progress", lambda *_: nullcontext(stop))
        with pytest.raises(KeyboardInterrupt):
            write_shapes(tmp_path, 4, categories=["bench"], num_views=1, processes=2)
    assert not (tmp_path / ".shapes.partial").exists()
    assert len(list((tmp_path / "ShapeNetVox32" / "02828884").iterdir())) == 1
    assert write_shapes(tmp_path, 4, categories=["bench"], num_views=1).num_new_models == 3
