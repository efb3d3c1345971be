"""Files of strangers: the readers, whole files for each, and edits that damage them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

from hvd_r2n2.config import load_config, to_yaml
from hvd_r2n2.data.binvox import read_binvox, write_binvox
from hvd_r2n2.data.camera import parse_metadata
from hvd_r2n2.data.decode import read_picture
from hvd_r2n2.data.picture_file import read_picture_file
from hvd_r2n2.data.splits import read_split_file
from hvd_r2n2.models.pickled_arrays import read_pickled_arrays
from hvd_r2n2.models.weights import read_weights

EditKind = Literal["flip", "overwrite", "insert", "delete", "repeat"]
EDIT_KINDS: tuple[EditKind, ...] = ("flip", "overwrite", "insert", "delete", "repeat")
MAX_EDITS = 6

# What has broken readers elsewhere: sizes, numbers, nesting, paths and the words of the formats themselves.
PIECES = (
    *(b"\x00", b"\xff", b"\x00" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\n", b" ", b'"', b"[", b"{", b"]", b"}", b","),
    *(b"0", b"-1", b"1e999", b"nan", b"inf", b"512", b"513", b"999999999", b"10000000000000000000000", b"null", b"1.5"),
    *(b"../", b"/", b"..", b"[" * 2000, b"9" * 5000, b"#", b"dim 512 512 512\n", b"data\n", b"scale 1\n"),
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!timestamp ", b"!!python/object:os.system ", b"- ", b": ", b"%", b"\t"),
    *(
        b"\x93NUMPY",
        b"cos\nsystem\n",
        b"c__builtin__\neval\n",
        b"\x80\x04",
        b"R",
        b"b",
        b"t",
        b".",
        b"q\xff",
        b"(",
        b"0",
    ),
    *(b"02691156", b'"train"', b'"taxonomy_id"', b"IDAT", b"IHDR", b"IEND", b"zTXt", b"iCCP", b'"dtype":"F64"'),
)


@dataclass(frozen=True)
class Edit:
    """One change of a file's bytes, at a share of its length."""

    kind: EditKind
    at: float
    count: int
    piece: bytes


def edited(content: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the bytes after all changes."""
    for edit in edits:
        start = int(edit.at * len(content))
        end = min(len(content), start + edit.count)
        if edit.kind == "flip":
            middle = bytes(byte ^ (1 << edit.count % 8) for byte in content[start : start + 1])
            end = start + len(middle)
        elif edit.kind == "overwrite":
            middle, end = edit.piece, min(len(content), start + len(edit.piece))
        elif edit.kind == "insert":
            middle, end = edit.piece, start
        elif edit.kind == "delete":
            middle = b""
        else:
            middle = content[start:end] * 3
        content = content[:start] + middle + content[end:]
    return content


def random_edits(random: Random) -> list[Edit]:
    """Draw some changes."""
    return [
        Edit(random.choice(EDIT_KINDS), random.random(), int(2 ** random.uniform(0, 8)), random.choice(PIECES))
        for _ in range(random.randint(1, MAX_EDITS))
    ]


@dataclass(frozen=True)
class Target:
    """A reader of files, and whole files that it reads."""

    read: Callable[[Path], object]
    files: tuple[bytes, ...]


def meets(target: Target, path: Path, content: bytes) -> bool:
    """Let the reader read the bytes from `path`; return whether it took them for data, or refused by a ValueError."""
    path.write_bytes(content)
    try:
        target.read(path)
    except ValueError as error:
        if not str(error):
            raise RuntimeError("a refusal without a word") from error
        return False
    return True


def targets(scratch: Path) -> Mapping[str, Target]:
    """Return every reader by name; `scratch` is a folder to make the whole files in."""
    return {
        "binvox": Target(read_binvox, _binvox_files(scratch / "model.binvox")),
        "metadata": Target(_read_metadata, (b"12.5 27.1 0 0.8 25\n" * 24, b"0 25 0 1.75 25\n\n1e-3 30 0 .65 25")),
        "split": Target(read_split_file, (_split(3), _split(0))),
        "original-weights": Target(_read_arrays, tuple(_arrays(protocol) for protocol in (0, 2, 3, 4, 5))),
        "settings": Target(
            load_config, (to_yaml(load_config()).encode(), b"train: &a {steps: 3}\noptimizer: {<<: *a}\n")
        ),
        "picture": Target(read_picture, (_picture("PNG", 137),)),
        "picture-file": Target(
            read_picture_file, tuple(_picture(kind, 9) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP"))
        ),
        "weights": Target(
            read_weights, (safetensors_bytes({"a.weight": np.ones((2, 3), np.float32), "b": np.ones(4)}),)
        ),
    }


def _read_metadata(path: Path) -> object:
    return parse_metadata(path.read_bytes().decode("ascii", errors="replace").splitlines(), path.name)


def _read_arrays(path: Path) -> object:
    return [entry.numbers() for entry in read_pickled_arrays(path)]


def _binvox_files(path: Path) -> tuple[bytes, ...]:
    files = []
    for side in (1, 4, 32):
        write_binvox(path, np.indices((side,) * 3).sum(axis=0) % 3 == 0)
        files.append(path.read_bytes())
    return tuple(files)


def _split(count: int) -> bytes:
    names = ("02691156", "03001627")
    parts = {part: [f"{part}-{number}" for number in range(count)] for part in ("train", "val", "test")}
    return json.dumps([{"taxonomy_id": name, "taxonomy_name": name, **parts} for name in names]).encode()


def _arrays(protocol: int) -> bytes:
    arrays = np.empty(2, dtype=object)
    arrays[0], arrays[1] = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 1, 2))
    header: Any = {"descr": "|O", "fortran_order": False, "shape": (2,)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickle.dumps(arrays, protocol)


def _picture(kind: str, side: int) -> bytes:
    stream = io.BytesIO()
    picture = np.indices((side, side, 4)).sum(axis=0).astype(np.uint8)
    Image.fromarray(picture).convert("P" if kind == "GIF" else "RGBA").save(stream, format=kind)
    return stream.getvalue()
