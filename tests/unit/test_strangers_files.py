"""Whatever is in a file, a reader gives data or a ValueError that says why: no crash, no other exception.

The long form is scripts/fuzz.py; its recorded run is in benchmarks/reliability.md.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hvd_r2n2.config import load_config
from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.data.decode import read_picture
from hvd_r2n2.data.picture_file import read_picture_file
from hvd_r2n2.data.splits import read_split_file
from hvd_r2n2.models.weights import read_weights
from tests.fuzzing import EDIT_KINDS, MAX_EDITS, PIECES, Edit, edited, meets, random_edits, targets

NAMES = (
    *("binvox", "metadata", "split", "original-weights", "settings"),
    *("picture", "picture-file", "weights"),
)
EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(EDIT_KINDS),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 300),
        st.sampled_from(PIECES) | st.binary(max_size=16),
    ),
    max_size=MAX_EDITS,
)


def test_all_readers_are_here(tmp_path: Path) -> None:
    assert set(targets(tmp_path)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_data(name: str, tmp_path: Path) -> None:
    target = targets(tmp_path)[name]
    if name == "settings":  # the second has a key in the wrong section
        assert [meets(target, tmp_path / "input", content) for content in target.files] == [True, False]
        return
    assert all(meets(target, tmp_path / "input", content) for content in target.files)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_give_data_or_a_value_error(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    target = targets(folder)[name]

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(target.files), EDITS)
    def search(content: bytes, edits: list[Edit]) -> None:
        meets(target, folder / "input", edited(content, edits))

    search()
    random = Random(name)
    for _ in range(300):
        meets(target, folder / "input", edited(random.choice(target.files), random_edits(random)))


def test_grid_that_claims_a_billion_voxels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.binvox"
    path.write_bytes(b"#binvox 1\ndim 1000 1000 1000\ntranslate 0 0 0\nscale 1\ndata\n" + b"\x01\xff" * 100)
    with pytest.raises(ValueError, match=r"dim 1000 1000 1000 .* is out of range; a side is 1 to 512"):
        read_binvox(path)


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_picture_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "00.png"
    path.write_bytes(png(60_000, 60_000, zlib.compress(bytes(1 << 20))))
    with pytest.raises(ValueError, match="the picture is 60000×60000, not 137×137"):
        read_picture(path)
    with pytest.raises(ValueError, match="far too many pixels, the limit is 64000000"):
        read_picture_file(path)


def test_picture_with_far_too_much_data_is_read_up_to_its_size(tmp_path: Path) -> None:
    path = tmp_path / "00.png"
    path.write_bytes(png(137, 137, zlib.compress(bytes(500 << 20))))  # 500 MB that fit into half a megabyte
    picture = read_picture(path)
    assert picture.shape == (137, 137, 4)
    assert not picture.any()


def test_tiff_whose_offset_is_a_float_is_damaged(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: Pillow raises a TypeError."""
    path = tmp_path / "picture.tif"
    Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8)).save(path, format="TIFF")
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    entries = [first + 2 + 12 * number for number in range(count)]
    (offsets,) = (entry for entry in entries if struct.unpack_from("<H", content, entry) == (273,))
    struct.pack_into("<HIf", content, offsets + 2, 11, 1, 8.0)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or cut short"):
        read_picture_file(path)


def test_picture_format_that_starts_programs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path, format="EPS")
    with pytest.raises(ValueError, match="is not a picture that can be read: give PNG"):
        read_picture_file(path)


def test_aliases_of_aliases_are_refused(tmp_path: Path) -> None:
    names = "abcdefghi"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]
    merges = ["a: &a {k: 1}"]
    merges += [f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}" for a, b in pairwise(names)]
    path = tmp_path / "bomb.yaml"
    for bomb in (lines, merges):
        path.write_text("\n".join(bomb) + "\n")
        with pytest.raises(ValueError, match=r"bomb.yaml: not valid YAML: more than 16 aliases"):
            load_config(path)


def test_settings_that_are_too_many_or_too_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ValueError, match=r"large.yaml: larger than 1,048,576 bytes"):
        load_config(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"large.yaml: not valid YAML"):
        load_config(path)
    path.write_text("{" + ", ".join(f"k{number}: 0" for number in range(20_000)) + "}")
    with pytest.raises(ValueError, match=r"large.yaml: unknown key k0"):
        load_config(path)


def test_large_split_files_take_time_that_grows_with_their_size(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text("[{" + ",".join(f'"k{number}":0' for number in range(300_000)) + "}]")
    with pytest.raises(ValueError, match="entry 0: taxonomy_id None"):
        read_split_file(path)
    ids = ",".join(f'"m{number}"' for number in range(300_000))
    path.write_text(f'[{{"taxonomy_id":"02691156","train":[{ids},"m299999"],"val":[],"test":[]}}]')
    with pytest.raises(ValueError, match="names m299999 twice"):
        read_split_file(path)


@pytest.mark.parametrize("length", [1 << 62, 100 << 20, 0, 7])
def test_header_of_weights_that_claims_too_much_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
    )
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_weights(path)
