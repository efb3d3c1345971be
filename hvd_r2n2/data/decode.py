"""A model's files decoded and checked: 24 pictures and a grid become one compact record, or a list of problems.

The record holds what training can see and nothing else: of each picture the smallest rectangle around alpha > 0
(all other pixels become background), with zeros where alpha is 0 inside it, and the grid as bits.

Files come from strangers: every size is checked before memory is taken, and whatever is wrong becomes a `Problem`.
"""

import hashlib
import io
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.data.camera import IMAGE_SIZE, parse_metadata
from hvd_r2n2.data.check import Problem
from hvd_r2n2.data.layout import ModelRef, metadata_path, picture_path, voxel_path

CHANNELS = 4

# A raw 137×137 RGBA picture has 75 kB; a metadata line about 60 bytes.
_MAX_PICTURE_BYTES = 1 << 20
_MAX_METADATA_BYTES = 1 << 16
_MAX_VOXEL_HEADER_BYTES = 4096
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_RGBA = 6


@dataclass(frozen=True)
class DecodedModel:
    """A model as the cache stores it, or, with a problem, nothing but its problems.

    `boxes` is V×4 uint8 (top, left, height, width of each view's rectangle); `payload` is the packed grid followed
    by the rectangles' RGBA bytes in the order of the views; `digest` is the sha256 of name, boxes and payload.
    """

    boxes: npt.NDArray[np.uint8]
    payload: bytes
    digest: bytes
    problems: tuple[Problem, ...]


def packed_bytes(voxel_resolution: int) -> int:
    """Return the bytes of a bit-packed grid."""
    return (voxel_resolution**3 + 7) // 8


def decode_model(root: Path, ref: ModelRef, voxel_resolution: int, num_views: int) -> DecodedModel:
    """Read and check all files of a model.

    Never raises for what a file holds: that is in `problems`, with paths relative to `root`.
    """
    faults: list[tuple[str, Path, Exception]] = []
    packed = b""
    boxes = np.zeros((num_views, 4), dtype=np.uint8)
    crops = []
    path = voxel_path(root, ref, voxel_resolution)
    try:
        packed = _read_voxels(path, voxel_resolution)
    except (ValueError, OSError) as error:
        faults.append(("voxels", path, error))
    path = metadata_path(root, ref)
    try:
        _check_metadata(path, num_views)
    except (ValueError, OSError) as error:
        faults.append(("metadata", path, error))
    for view in range(num_views):
        path = picture_path(root, ref, view)
        try:
            boxes[view], crop = _crop(read_picture(path))
            crops.append(crop)
        except (ValueError, OSError) as error:
            faults.append(("picture", path, error))
    if faults:
        return DecodedModel(np.zeros_like(boxes), b"", bytes(32), _problems(root, ref, faults, num_views))
    payload = packed + b"".join(crops)
    return DecodedModel(boxes, payload, model_digest(str(ref), boxes, payload), ())


def model_digest(ref: str, boxes_V4: npt.NDArray[np.uint8], payload: bytes | memoryview) -> bytes:
    """Return the sha256 of a model's name (synset/model), the rectangles of its views, and its payload."""
    digest = hashlib.sha256(ref.encode() + b"\0" + boxes_V4.tobytes())
    digest.update(payload)
    return digest.digest()


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read a rendering: 137×137×4 uint8, RGBA.

    Raises:
        ValueError: the file is not a whole 8-bit RGBA PNG of 137×137.
        OSError: it cannot be read.
    """
    data = _read_file(path, _MAX_PICTURE_BYTES)
    try:
        _check_png(data)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            picture = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise many kinds; each is one line of the report
        raise ValueError(f"{path}: {error}") from error
    if picture.shape != (IMAGE_SIZE, IMAGE_SIZE, CHANNELS) or picture.dtype != np.uint8:
        raise ValueError(f"{path}: the picture decodes to {picture.dtype} {picture.shape}, not 137×137 RGBA")
    return picture


def _problems(
    root: Path, ref: ModelRef, faults: Sequence[tuple[str, Path, Exception]], num_views: int
) -> tuple[Problem, ...]:
    """Put faults into words; the pictures that are not there make one problem together."""
    problems = []
    absent = [path for what, path, error in faults if what == "picture" and isinstance(error, FileNotFoundError)]
    if absent:
        names = ", ".join(path.name for path in absent[:4]) + (", ..." if len(absent) > 4 else "")
        reason = f"{len(absent)} of the {num_views} pictures are missing ({names})"
        problems.append(Problem(str(ref), "missing picture", str(absent[0].parent.relative_to(root)), reason))
    for what, path, error in faults:
        if path in absent:
            continue
        kind, reason = f"broken {what}", str(error).removeprefix(f"{path}: ")
        if isinstance(error, FileNotFoundError):
            kind, reason = f"missing {what}", "there is no such file"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        problems.append(Problem(str(ref), kind, str(path.relative_to(root)), reason))
    return tuple(problems)


def _check_file(path: Path, max_bytes: int) -> None:
    # Also keeps a named pipe or a device from being opened, which could wait for ever.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file")
    if status.st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if status.st_size > max_bytes:
        raise ValueError(f"{path}: {status.st_size:,} bytes are too many for such a file (at most {max_bytes:,})")


def _read_file(path: Path, max_bytes: int) -> bytes:
    _check_file(path, max_bytes)
    with path.open("rb") as file:
        return file.read(max_bytes)


def _read_voxels(path: Path, voxel_resolution: int) -> bytes:
    _check_file(path, _MAX_VOXEL_HEADER_BYTES + 2 * voxel_resolution**3)
    return np.packbits(read_binvox(path, voxel_resolution).occupancy_XYZ.reshape(-1)).tobytes()


def _check_metadata(path: Path, num_views: int) -> None:
    text = _read_file(path, _MAX_METADATA_BYTES).decode("ascii", errors="replace")
    cameras = parse_metadata(text.splitlines(), path.name)
    if len(cameras) != num_views:
        raise ValueError(f"{path}: {len(cameras)} lines; there must be one for each of the {num_views} views")


def _check_png(data: bytes) -> None:
    """Check signature, size, mode and the checksum of every chunk, before anything is decompressed."""
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError("not a PNG file")
    offset, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        if offset + 12 > len(data):
            raise ValueError(f"the PNG is truncated after {len(data):,} bytes")
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise ValueError(f"the PNG is truncated after {len(data):,} bytes, in its {kind!r} chunk")
        body = memoryview(data)[offset + 4 : end - 4]
        if zlib.crc32(body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the checksum of the PNG's {kind!r} chunk at byte {offset:,} is wrong")
        if offset == len(_PNG_SIGNATURE):
            _check_png_header(kind, bytes(body[4:]))
        offset = end


def _check_png_header(kind: bytes, body: bytes) -> None:
    if kind != b"IHDR" or len(body) != 13:
        raise ValueError("the PNG does not begin with its header")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", body)
    if (width, height) != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"the picture is {width}×{height}, not {IMAGE_SIZE}×{IMAGE_SIZE}")
    if (depth, colour_type) != (8, _RGBA):
        mode = _PNG_COLOUR_TYPES.get(colour_type, f"of the unknown colour type {colour_type}")
        raise ValueError(f"the picture is {mode} with {depth} bits, not RGBA with 8")


def _crop(picture_HWC: npt.NDArray[np.uint8]) -> tuple[tuple[int, int, int, int], bytes]:
    visible_HW = picture_HWC[:, :, 3] > 0
    rows = np.flatnonzero(visible_HW.any(axis=1))
    if not len(rows):
        return (0, 0, 0, 0), b""
    columns = np.flatnonzero(visible_HW.any(axis=0))
    inside = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    crop_HWC = picture_HWC[inside].copy()
    crop_HWC[~visible_HW[inside]] = 0
    return (inside[0].start, inside[1].start, crop_HWC.shape[0], crop_HWC.shape[1]), crop_HWC.tobytes()
