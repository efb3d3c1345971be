"""The binvox file format: cubic occupancy grids, run-length encoded.

A file is a header of ASCII lines and then runs, each a byte of value (0 or 1) and a byte of count (1 to 255):

    #binvox 1
    dim 32 32 32
    translate -0.5 -0.5 -0.5
    scale 1
    data
    <value><count><value><count>...

The stored order is x, z, y with y running fastest (Patrick Min, www.patrickmin.com/binvox/binvox.html); the grids
of this package are indexed x, y, z with y up, so the last two axes are swapped on the way in and out.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_RESOLUTION = 512
"""Largest side accepted, so that a broken or hostile header cannot ask for the machine's memory."""

_MAX_HEADER_BYTES = 4096
_MAX_RUN = 255
_KEYS = ("dim", "translate", "scale")


@dataclass(frozen=True)
class Voxels:
    """An occupancy grid (D×D×D, bool, indexed x, y, z with y up) and where the file says it lies."""

    occupancy_XYZ: npt.NDArray[np.bool_]
    translate: tuple[float, float, float]
    scale: float


@dataclass(frozen=True)
class _Header:
    resolution: int
    translate: tuple[float, float, float]
    scale: float
    data_offset: int


def read_binvox(path: str | os.PathLike[str], resolution: int | None = None) -> Voxels:
    """Read a binvox file, of the side `resolution` if that is given.

    The header's sizes are checked before memory is taken, and a file longer than its header allows is not read.

    Raises:
        ValueError: the file is not a whole, cubic binvox file of 0s and 1s, or its side is not `resolution`; the
            message names the file and the fault.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = _read_header(file.read(_MAX_HEADER_BYTES), path)
        if resolution is not None and header.resolution != resolution:
            raise ValueError(f"{path}: the grid has a side of {header.resolution}, not {resolution}")
        num_voxels = header.resolution**3
        # A voxel takes at most one run of two bytes; one byte more shows that there is too much.
        file.seek(header.data_offset)
        data = file.read(min(2 * num_voxels + 1, os.fstat(file.fileno()).st_size))
    stored_XZY = _decode_runs(data, num_voxels, path).reshape((header.resolution,) * 3)
    occupancy_XYZ = np.ascontiguousarray(stored_XZY.transpose(0, 2, 1))
    return Voxels(occupancy_XYZ, header.translate, header.scale)


def write_binvox(
    path: str | os.PathLike[str],
    occupancy_XYZ: npt.ArrayLike,
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
) -> None:
    """Write a grid (D×D×D, bool or 0/1, indexed x, y, z with y up) as a binvox file.

    Raises:
        ValueError: the grid is not cubic, is empty or too large, or holds other values than 0 and 1; or the
            placement is not finite.
    """
    grid_XYZ = np.asarray(occupancy_XYZ)
    if grid_XYZ.ndim != 3 or len(set(grid_XYZ.shape)) != 1 or not 1 <= grid_XYZ.shape[0] <= MAX_RESOLUTION:
        raise ValueError(
            f"{path}: a grid of shape {grid_XYZ.shape} cannot be written as binvox; "
            f"it must be D×D×D with D from 1 to {MAX_RESOLUTION}"
        )
    if not np.isin(grid_XYZ, (0, 1)).all():
        raise ValueError(f"{path}: an occupancy grid holds only 0 and 1 (threshold probabilities first)")
    if len(translate) != 3 or not all(math.isfinite(number) for number in (*translate, scale)):
        raise ValueError(f"{path}: translate {translate} and scale {scale} must be three and one finite numbers")
    side = grid_XYZ.shape[0]
    numbers = " ".join(_plain_number(number) for number in translate)
    header = f"#binvox 1\ndim {side} {side} {side}\ntranslate {numbers}\nscale {_plain_number(scale)}\ndata\n"
    stored = grid_XYZ.astype(np.uint8).transpose(0, 2, 1).reshape(-1)
    Path(path).write_bytes(header.encode("ascii") + _encode_runs(stored))


def _plain_number(number: float) -> str:
    return repr(int(number)) if float(number).is_integer() else repr(float(number))


def _read_header(head: bytes, path: Path) -> _Header:
    first, _, rest = head.partition(b"\n")
    if first.strip() != b"#binvox 1":
        raise ValueError(f"{path}: not a binvox file: it begins {head[:16]!r}, not b'#binvox 1'")
    fields: dict[str, list[str]] = {}
    offset = len(first) + 1
    while True:
        line, newline, rest = rest.partition(b"\n")
        if not newline:
            raise ValueError(f"{path}: the binvox header has no 'data' line in its first {len(head)} bytes")
        offset += len(line) + 1
        words = line.decode("latin-1").split()
        if words == ["data"]:
            break
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _KEYS:
            raise ValueError(f"{path}: unknown line {line[:80]!r} in the binvox header (dim, translate, scale)")
        if words[0] in fields:
            raise ValueError(f"{path}: the binvox header has two {words[0]!r} lines")
        fields[words[0]] = words[1:]
    missing = [key for key in _KEYS if key not in fields]
    if missing:
        raise ValueError(f"{path}: the binvox header lacks {', '.join(missing)}")
    x, y, z = _floats(fields["translate"], 3, "translate", path)
    (scale,) = _floats(fields["scale"], 1, "scale", path)
    return _Header(_resolution(fields["dim"], path), (x, y, z), scale, offset)


def _resolution(words: list[str], path: Path) -> int:
    text = " ".join(words)
    if len(words) != 3 or not all(re.fullmatch(r"-?[0-9]{1,9}", word) for word in words):
        raise ValueError(f"{path}: dim {text[:80]!r} in the binvox header is not three whole numbers")
    sides = [int(word) for word in words]
    if not all(1 <= side <= MAX_RESOLUTION for side in sides):
        raise ValueError(f"{path}: dim {text} in the binvox header is out of range; a side is 1 to {MAX_RESOLUTION}")
    if len(set(sides)) != 1:
        raise ValueError(f"{path}: dim {text} in the binvox header is not a cube; all three sides must be equal")
    return sides[0]


def _floats(words: list[str], count: int, key: str, path: Path) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{path}: {key} {' '.join(words)[:80]!r} in the binvox header is not {count} finite number(s)")
    return numbers


def _decode_runs(data: bytes, num_voxels: int, path: Path) -> npt.NDArray[np.bool_]:
    runs = np.frombuffer(data[: len(data) // 2 * 2], dtype=np.uint8).reshape(-1, 2)
    values, counts = runs[:, 0], runs[:, 1]
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total < num_voxels:
        raise ValueError(
            f"{path}: binvox data end too early: {total} of {num_voxels} voxels in {len(data)} bytes "
            "(the file is truncated, or its dim is wrong)"
        )
    # Judge only the runs up to the one that fills the grid; what follows it is a fault of its own.
    num_runs = int(np.searchsorted(ends, num_voxels)) + 1
    zero_length = np.flatnonzero(counts[:num_runs] == 0)
    if len(zero_length):
        raise ValueError(f"{path}: binvox run {int(zero_length[0])} has length 0; a run is 1 to {_MAX_RUN} voxels")
    strange = np.flatnonzero(values[:num_runs] > 1)
    if len(strange):
        run = int(strange[0])
        raise ValueError(f"{path}: binvox run {run} has the value {int(values[run])}; only 0 and 1 are occupancies")
    if int(ends[num_runs - 1]) != num_voxels:
        raise ValueError(
            f"{path}: binvox runs overrun the grid: run {num_runs - 1} ends at voxel {int(ends[num_runs - 1])} "
            f"of {num_voxels}"
        )
    if len(data) > 2 * num_runs:
        raise ValueError(f"{path}: there are bytes after the last binvox run, from byte {2 * num_runs} of the data on")
    return np.repeat(values[:num_runs], counts[:num_runs]).astype(np.bool_)


def _encode_runs(stored: npt.NDArray[np.uint8]) -> bytes:
    starts = np.concatenate(([0], np.flatnonzero(np.diff(stored)) + 1))
    lengths = np.diff(np.concatenate((starts, [stored.size])))
    full, left = np.divmod(lengths, _MAX_RUN)
    # A stretch of equal values becomes `full` runs of 255 and, where something is left, a shorter one.
    pieces = full + (left > 0)
    values = np.repeat(stored[starts], pieces)
    counts = np.full(len(values), _MAX_RUN, dtype=np.uint8)
    last_piece = np.cumsum(pieces) - 1
    counts[last_piece[left > 0]] = left[left > 0]
    return np.stack((values, counts), axis=1).tobytes()
