import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data.binvox import read_binvox, write_binvox
from hvd_r2n2.data.check import DataProblems, Problem
from hvd_r2n2.data.dataset import Dataset, open_dataset

CHAIR, LAMP = "03001627", "03636649"
TEN = [f"m{number}" for number in range(10)]
LayoutMaker = Callable[..., Path]


def quiet(message: str) -> None:
    pass


def opened(root: Path, num_views: int = 2, resolution: int = 32, **settings: object) -> Dataset:
    return open_dataset(DataConfig(root=str(root), **settings), root, resolution, quiet, num_views)  # type: ignore[arg-type]


def picture(root: Path, name: str, view: int) -> Path:
    return root / "ShapeNetRendering" / name / "rendering" / f"{view:02d}.png"


def grid(root: Path, name: str) -> Path:
    return root / "ShapeNetVox32" / name / "model.binvox"


def test_pictures_and_grids_are_those_of_the_files_with_zeros_where_alpha_is_zero(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["b", "a"], LAMP: ["c"]})
    dataset = opened(root)
    assert [str(ref) for ref in dataset.refs] == [f"{CHAIR}/a", f"{CHAIR}/b", f"{LAMP}/c"]
    for index, ref in enumerate(dataset.refs):
        for view in range(2):
            expected = np.array(Image.open(picture(root, str(ref), view)))
            assert expected[expected[..., 3] == 0].any()  # colours that cannot be seen
            expected[expected[..., 3] == 0] = 0
            np.testing.assert_array_equal(dataset.images(index, [view])[0], expected)
        occupancy = dataset.occupancy(index)
        assert occupancy.dtype == np.uint8
        np.testing.assert_array_equal(occupancy, read_binvox(grid(root, str(ref))).occupancy_XYZ)


def test_real_models_are_read_as_pillow_decodes_them(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "r2n2_samples"
    dataset = opened(root, num_views=24, cache_dir=str(tmp_path))
    assert [ref.synset for ref in dataset.refs] == ["02691156", "02958343", CHAIR]
    for index, ref in enumerate(dataset.refs):
        pictures = dataset.images(index, range(24))
        for view in range(24):
            expected = np.array(Image.open(picture(root, str(ref), view)))
            expected[expected[..., 3] == 0] = 0
            np.testing.assert_array_equal(pictures[view], expected)
        np.testing.assert_array_equal(dataset.occupancy(index), read_binvox(grid(root, str(ref))).occupancy_XYZ)
    # The cache is small: a quarter of the raw bytes, and a little more for other silhouettes.
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.cache"))
    assert size < 0.4 * 3 * (24 * 137 * 137 * 4 + 32**3)


def test_views_come_in_the_order_asked_for_and_may_repeat(make_layout: LayoutMaker) -> None:
    dataset = opened(make_layout({CHAIR: ["a"]}))
    first, second = dataset.images(0, [0, 1])
    np.testing.assert_array_equal(dataset.images(0, [1, 0, 1]), np.stack([second, first, second]))
    assert not np.array_equal(first, second)
    with pytest.raises(IndexError, match="view 2 of 03001627/a"):
        dataset.images(0, [2])
    with pytest.raises(IndexError, match="sample 1"):
        dataset.occupancy(1)


def test_an_invisible_picture_is_all_zeros(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["a"]})
    Image.fromarray(np.full((137, 137, 4), (9, 9, 9, 0), dtype=np.uint8)).save(picture(root, f"{CHAIR}/a", 0))
    assert not opened(root).images(0, [0]).any()


def test_the_parts_are_positions_of_the_split_and_the_summary_counts_them(make_layout: LayoutMaker) -> None:
    dataset = opened(make_layout({CHAIR: TEN, LAMP: TEN[:5]}, num_views=1), num_views=1)
    assert dataset.split_name == "r2n2"
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (10, 2, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([dataset.train, dataset.validation, dataset.test])), range(15))
    assert [str(dataset.refs[index]) for index in dataset.test] == [f"{CHAIR}/m8", f"{CHAIR}/m9", f"{LAMP}/m4"]
    rows = [line.split() for line in dataset.summary().splitlines()]
    assert rows[1] == [CHAIR, "chair", "7", "1", "2", "10"]
    assert rows[2] == [LAMP, "lamp", "3", "1", "1", "5"]
    assert rows[3] == ["all", "10", "2", "3", "15"]
    assert "r2n2" in rows[0]


def test_categories_are_chosen_by_name_or_synset(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["a"], LAMP: ["b"]})
    for name in ("lamp", LAMP):
        assert [str(ref) for ref in opened(root, categories=(name,)).refs] == [f"{LAMP}/b"]
    with pytest.raises(ValueError, match="names 03636649 lamp twice"):
        opened(root, categories=("lamp", LAMP))
    with pytest.raises(DataProblems, match="there are no models of 02958343 car"):
        opened(root, categories=("chair", "car"))
    with pytest.raises(ValueError, match="there are no models of 02958343 car"):
        opened(root, categories=("car",))


def test_a_resolution_of_64_reads_its_own_folder(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["a"]}, resolution=64)
    assert opened(root, resolution=64).occupancy(0).shape == (64, 64, 64)
    with pytest.raises(ValueError, match=r"no folder ShapeNetVox32; .* has ShapeNetRendering/ and, for a voxel"):
        opened(root)


def test_a_split_file_chooses_the_parts_and_the_rest_is_told(make_layout: LayoutMaker, tmp_path: Path) -> None:
    root = make_layout({CHAIR: ["a", "b", "c", "d"]})
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"taxonomy_id": CHAIR, "train": ["b"], "val": ["a"], "test": ["d"]}]))
    told: list[str] = []
    dataset = open_dataset(DataConfig(split=str(path)), root, 32, told.append, 2)
    assert dataset.split_name == "mine.json"
    names = [str(ref) for ref in dataset.refs]
    assert names == [f"{CHAIR}/a", f"{CHAIR}/b", f"{CHAIR}/d"]
    assert (dataset.train.tolist(), dataset.validation.tolist(), dataset.test.tolist()) == ([1], [0], [2])
    assert any("1 models" in line and "in no part of the split mine.json" in line for line in told)
    with pytest.raises(ValueError, match=r"'no\.json' is neither 'r2n2' nor a file"):
        opened(root, split="no.json")
    make_layout({LAMP: ["a"]})
    with pytest.raises(ValueError, match=r"data.categories names 03636649 lamp, but the split mine.json has none"):
        opened(root, split=str(path), categories=("chair", "lamp"))


def png(width: int = 137, height: int = 137, depth: int = 8, colour_type: int = 6) -> bytes:
    """A PNG of zeros by hand; its size can be anything, whatever data it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    rows = zlib.compress(bytes(137 * (1 + 137 * 4)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_everything_that_is_missing_or_broken_is_told_at_once(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: [*"abcdefghijklmno"], LAMP: ["p", "q"]}, num_views=3)
    assert len(opened(root, num_views=3).refs) == 17  # whole before the files are broken

    def broken_picture(name: str, data: bytes) -> None:
        picture(root, f"{CHAIR}/{name}", 1).write_bytes(data)

    whole = picture(root, f"{CHAIR}/a", 1).read_bytes()
    grid(root, f"{CHAIR}/a").unlink()
    picture(root, f"{CHAIR}/b", 0).unlink()
    picture(root, f"{CHAIR}/b", 2).unlink()
    broken_picture("c", whole[: len(whole) // 2])
    broken_picture("d", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    broken_picture("e", png(width=20000, height=20000))
    broken_picture("f", png(colour_type=2))
    broken_picture("g", b"GIF89a")
    broken_picture("h", b"")
    grid(root, f"{CHAIR}/i").write_bytes(b"#binvox 1\ndim 9999 9999 9999\ntranslate 0 0 0\nscale 1\ndata\n")
    write_binvox(grid(root, f"{CHAIR}/j"), np.zeros((16, 16, 16)))
    metadata = root / "ShapeNetRendering" / CHAIR / "k" / "rendering" / "rendering_metadata.txt"
    metadata.write_text("1 2 0 0.8 25\n1 2 0 0.8 25\n")
    metadata = root / "ShapeNetRendering" / CHAIR / "l" / "rendering" / "rendering_metadata.txt"
    metadata.write_text("1 2 0 0.8 25\n1 x 0 0.8 25\n1 2 0 0.8 25\n")
    broken_picture("m", bytes((1 << 20) + 1))
    picture(root, f"{CHAIR}/n", 1).unlink()
    os.mkfifo(picture(root, f"{CHAIR}/n", 1))
    (root / "ShapeNetVox32" / LAMP / "only-voxels").mkdir()
    write_binvox(grid(root, f"{LAMP}/only-voxels"), np.zeros((32, 32, 32)))

    with pytest.raises(DataProblems) as caught:
        opened(root, num_views=3)
    expected = {
        f"{CHAIR}/a": ("missing voxels", "there is no such file"),
        f"{CHAIR}/b": ("missing picture", "2 of the 3 pictures are missing (00.png, 02.png)"),
        f"{CHAIR}/c": ("broken picture", "truncated"),
        f"{CHAIR}/d": ("broken picture", "the checksum of the PNG's b'IDAT' chunk"),
        f"{CHAIR}/e": ("broken picture", "20000×20000, not 137×137"),
        f"{CHAIR}/f": ("broken picture", "RGB with 8 bits, not RGBA with 8"),
        f"{CHAIR}/g": ("broken picture", "not a PNG file"),
        f"{CHAIR}/h": ("broken picture", "the file is empty"),
        f"{CHAIR}/i": ("broken voxels", "out of range"),
        f"{CHAIR}/j": ("broken voxels", "a side of 16, not 32"),
        f"{CHAIR}/k": ("broken metadata", "2 lines; there must be one for each of the 3 views"),
        f"{CHAIR}/l": ("broken metadata", "rendering_metadata.txt, line 2"),
        f"{CHAIR}/m": ("broken picture", "1,048,577 bytes are too many"),
        f"{CHAIR}/n": ("broken picture", "not a regular file"),
        f"{LAMP}/only-voxels": ("missing picture", "3 of the 3 pictures are missing"),
    }
    problems = [problem for problem in caught.value.problems if problem.kind != "missing metadata"]
    assert [problem.model for problem in problems] == list(expected)
    message = str(caught.value)
    for problem, (kind, reason) in zip(problems, expected.values(), strict=True):
        assert problem.kind == kind
        assert reason in problem.reason
        assert problem.path.startswith(f"{root}/")
        assert str(problem) in message
    assert "16 problem(s) in 15 model(s)" in message
    assert "8 × broken picture" in message
    skips = ", ".join(expected)
    assert message.endswith(f"  skip_models: [{skips}]")
    dataset = opened(root, num_views=3, skip_models=tuple(skips.split(", ")))
    assert [str(ref) for ref in dataset.refs] == [f"{CHAIR}/o", f"{LAMP}/p", f"{LAMP}/q"]


@pytest.mark.parametrize("model_id", TEN)
def test_skipping_a_model_does_not_move_the_others_between_the_parts(make_layout: LayoutMaker, model_id: str) -> None:
    root = make_layout({CHAIR: TEN}, num_views=1)
    whole = opened(root, num_views=1)
    less = opened(root, num_views=1, skip_models=(f"{CHAIR}/{model_id}",))
    for part in ("train", "validation", "test"):
        names = {str(whole.refs[index]) for index in getattr(whole, part)} - {f"{CHAIR}/{model_id}"}
        assert {str(less.refs[index]) for index in getattr(less, part)} == names


def test_a_model_to_skip_must_exist(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["abcd", "xyz"], LAMP: ["a"]})
    with pytest.raises(ValueError, match=r"skip_models: there is no model 03001627/abce; the nearest is 03001627/abcd"):
        opened(root, skip_models=(f"{CHAIR}/abce",))
    for wrong in ("abcd", f"{CHAIR}/../x", f"/{CHAIR}/abcd", f"{CHAIR}/"):
        with pytest.raises(ValueError, match=r"skip_models: .* is not a model"):
            opened(root, skip_models=(wrong,))
    # A list for the whole data set is good for a part of it.
    assert len(opened(root, skip_models=(f"{CHAIR}/abcd",), categories=("lamp",)).refs) == 1


def test_models_of_a_split_file_that_are_not_on_disk_are_missing(make_layout: LayoutMaker, tmp_path: Path) -> None:
    root = make_layout({CHAIR: ["a", "b"]})
    path = tmp_path / "split.json"
    entries = [
        {"taxonomy_id": CHAIR, "train": ["a", "x"], "val": ["b"], "test": ["y"]},
        {"taxonomy_id": LAMP, "train": ["m", "n"], "val": [], "test": []},
    ]
    path.write_text(json.dumps(entries))
    with pytest.raises(DataProblems) as caught:
        opened(root, split=str(path))
    kinds = [(problem.model, problem.kind) for problem in caught.value.problems]
    assert kinds == [
        (f"{CHAIR}/x", "missing model"),
        (f"{CHAIR}/y", "missing model"),
        (LAMP, "missing category"),
    ]
    assert "there are no models of 03636649 lamp; the split split.json has 2 models of it" in str(caught.value)
    assert "data.categories" in str(caught.value)
    dataset = opened(root, split=str(path), categories=("chair",), skip_models=(f"{CHAIR}/x", f"{CHAIR}/y"))
    assert [str(ref) for ref in dataset.refs] == [f"{CHAIR}/a", f"{CHAIR}/b"]


def test_a_long_report_is_capped_but_kept_whole_also_across_processes() -> None:
    problems = [Problem(f"{CHAIR}/{number:04d}", "broken picture", f"/p/{number}", "bad") for number in range(300)]
    error = DataProblems(problems, skipped=(f"{LAMP}/s",))
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert one.problems == tuple(problems)
        assert one.skip_line.count(",") == 300  # the 300 and the one that is skipped already
        message = str(one)
        assert "300 problem(s) in 300 model(s): 300 × broken picture" in message
        assert "... and 250 more" in message
        assert message.count("\n") < 60
        assert len(message) < 4000


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder ShapeNetRendering and no folder ShapeNetVox32"):
        opened(tmp_path)


def test_a_folder_name_that_cannot_be_an_id_is_refused(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["a"]})
    (root / "ShapeNetRendering" / CHAIR / ".hidden").mkdir()
    assert len(opened(root).refs) == 1
    (root / "ShapeNetRendering" / CHAIR / "a copy").mkdir()
    with pytest.raises(ValueError, match="'a copy' cannot be a model's id"):
        opened(root)


def test_the_digest_follows_the_content_the_names_and_the_parts(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: TEN}, num_views=1)
    digest = opened(root, num_views=1).content_digest
    assert opened(make_layout({CHAIR: TEN}, num_views=1, name="copy"), num_views=1).content_digest == digest
    assert opened(root, num_views=1, validation_fraction=0.5).content_digest != digest
    assert opened(root, num_views=1, skip_models=(f"{CHAIR}/m1",)).content_digest != digest
    path = picture(root, f"{CHAIR}/m3", 0)
    pixels = np.array(Image.open(path))
    # A colour that cannot be seen changes nothing; one that can does.
    row, column = np.argwhere(pixels[..., 3] == 0)[0]
    pixels[row, column, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert opened(root, num_views=1).content_digest == digest
    row, column = np.argwhere(pixels[..., 3] > 0)[0]
    pixels[row, column, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert opened(root, num_views=1).content_digest != digest


def test_a_picture_with_any_byte_changed_is_read_or_told(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: ["a"]}, num_views=1)
    path = picture(root, f"{CHAIR}/a", 0)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(whole)
        changed[generator.integers(len(whole))] ^= generator.integers(1, 256)
        path.write_bytes(changed)
        with pytest.raises(DataProblems, match=r"00\.png: "):
            opened(root, num_views=1)
