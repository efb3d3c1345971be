"""The decoded cache of one category: a file that is written once, mapped into memory, and read without decoding.

    preamble   magic, where the index lies, the file's whole length, sha256 of the index; written last
    payloads   for each model: its grid as bits, then the RGBA rectangle of each view (see decode.py)
    index      JSON (names, problems, what the cache was made from), then boxes N×V×4 and digests N×32

For real ShapeNet renderings this takes about a quarter of the raw pictures' 75 kB each, and is exact.
Legend: N models, V views, D voxels a side.
"""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.check import Problem
from hvd_r2n2.data.decode import CHANNELS, model_digest, packed_bytes
from hvd_r2n2.data.packed import Rectangles
from hvd_r2n2.data.samples import DamagedSampleError

MAGIC = b"hvd_r2n2 cache 1"
PREAMBLE = struct.Struct("<16sQQQ32s")
JSON_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class CacheKey:
    """What a cache was made from; a cache with another key is not used."""

    synset: str
    voxel_resolution: int
    num_views: int
    fingerprint: str

    @property
    def file_name(self) -> str:
        """The name of the cache file of this key."""
        return f"{self.family}{self.fingerprint[:20]}.cache"

    @property
    def family(self) -> str:
        """The beginning that the names of all caches of this category and resolution share."""
        return f"{self.synset}-{self.voxel_resolution}-"


class CategoryCache:
    """A category's models, mapped from its cache file; reading takes no lock and decodes nothing."""

    def __init__(self, path: Path, key: CacheKey) -> None:
        """Map a cache file.

        Raises:
            ValueError: the file is not a whole cache of this key.
            OSError: it cannot be read.
        """
        index_offset, index = _read_index(path)
        try:
            (json_length,) = JSON_LENGTH.unpack_from(index)
            tables = JSON_LENGTH.size + json_length
            described = json.loads(index[JSON_LENGTH.size : tables])
            found = described["key"]
            self.model_ids: tuple[str, ...] = tuple(map(str, described["models"]))
            self.problems = tuple(Problem(**problem) for problem in described["problems"])
        except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
            raise ValueError(f"{path}: the cache's index is malformed ({error!r})") from None
        if found != asdict(key):
            raise ValueError(f"{path}: a cache of {found}, not of {asdict(key)}")
        num_models = len(self.model_ids)
        num_boxes = num_models * key.num_views * 4
        boxes = np.frombuffer(index, dtype=np.uint8, offset=tables, count=num_boxes)
        digests = np.frombuffer(index, dtype=np.uint8, offset=tables + num_boxes, count=num_models * _DIGEST_BYTES)
        self.digests_ND = digests.reshape(num_models, _DIGEST_BYTES)
        self._boxes_NV4 = boxes.reshape(num_models, key.num_views, 4)
        self._resolution = key.voxel_resolution
        self._grid_offsets_N, self._crop_offsets_NV, end = self._offsets()
        if end != index_offset or (self._boxes_NV4[..., :2].astype(int) + self._boxes_NV4[..., 2:] > IMAGE_SIZE).any():
            raise ValueError(f"{path}: the cache's tables do not fit its payloads")
        # As a plain array: a slice of a memmap takes three times as long to make.
        self._bytes: npt.NDArray[np.uint8] = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        # What each picture asks for, where Python finds it faster than in an array.
        self._num_views, self._box_bytes = key.num_views, boxes.tobytes()
        self._grid_bytes, self._grid_starts = packed_bytes(key.voxel_resolution), self._grid_offsets_N.data
        self._is_checked = bytearray(num_models)
        self._starts = np.ascontiguousarray(self._crop_offsets_NV).reshape(-1).data
        self._path, self._synset = path, key.synset

    def _offsets(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Return where each model's grid and each view's rectangle begin, and where all end."""
        crop_bytes_NV = np.prod(self._boxes_NV4[:, :, 2:], axis=2, dtype=np.int64) * CHANNELS
        # Models with problems have no payload; their digest is zero.
        whole_N = self.digests_ND.any(axis=1)
        model_bytes_N = np.where(whole_N, packed_bytes(self._resolution) + crop_bytes_NV.sum(axis=1), 0)
        grid_offsets_N = PREAMBLE.size + np.cumsum(model_bytes_N) - model_bytes_N
        crop_ends_NV = grid_offsets_N[:, None] + packed_bytes(self._resolution) + np.cumsum(crop_bytes_NV, axis=1)
        return grid_offsets_N, crop_ends_NV - crop_bytes_NV, PREAMBLE.size + int(model_bytes_N.sum())

    def rectangles(self, model: int, views: Sequence[int]) -> Rectangles:
        """Return the rectangles of views of the model at this position; nothing is copied.

        Raises:
            DamagedSampleError: the model's bytes are not those that its digest is of.
        """
        self._check(model)
        chosen, contents = [], []
        for view in views:
            number = model * self._num_views + view
            box, start = tuple(self._box_bytes[4 * number : 4 * number + 4]), self._starts[number]
            chosen.append(box)
            contents.append(self._bytes[start : start + box[2] * box[3] * CHANNELS])
        return Rectangles(chosen, contents)

    def read_occupancy(self, model: int) -> npt.NDArray[np.uint8]:
        """Return the grid of the model at this position: D×D×D uint8 (0 or 1), indexed x, y, z.

        It is compared with its digest when the model's pictures are read: what needs grids alone, the mean of all
        training shapes, say, would read fifty times as much otherwise.
        """
        return np.unpackbits(self.read_bits(model), count=self._resolution**3).reshape((self._resolution,) * 3)

    def read_bits(self, model: int) -> npt.NDArray[np.uint8]:
        """Return the same grid as it is kept: its voxels as bits, in bytes that are not copied."""
        start = self._grid_starts[model]
        return self._bytes[start : start + self._grid_bytes]

    def _check(self, model: int) -> None:
        """Compare a model with its digest, the first time that pictures of it are read."""
        if self._is_checked[model]:
            return
        boxes_V4, offsets_V = self._boxes_NV4[model], self._crop_offsets_NV[model]
        height, width = boxes_V4[-1, 2:].tolist()
        payload = self._bytes[self._grid_offsets_N[model] : offsets_V[-1] + height * width * CHANNELS]
        ref = f"{self._synset}/{self.model_ids[model]}"
        if model_digest(ref, boxes_V4, payload.data) != self.digests_ND[model].tobytes():
            raise DamagedSampleError(f"{self._path}: damaged at {ref}; remove this file, it is made anew from the data")
        self._is_checked[model] = True


def _read_index(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        preamble = file.read(PREAMBLE.size)
        length = os.fstat(file.fileno()).st_size
        if len(preamble) < PREAMBLE.size or not preamble.startswith(MAGIC):
            raise ValueError(f"{path}: not a cache file of this version")
        _, index_offset, index_bytes, total, digest = PREAMBLE.unpack(preamble)
        if total != length or index_offset + index_bytes != total:
            raise ValueError(f"{path}: {length:,} bytes, but the cache has {total:,}")
        file.seek(index_offset)
        index = file.read(index_bytes)
    if hashlib.sha256(index).digest() != digest:
        raise ValueError(f"{path}: the cache's index is damaged")
    return index_offset, index
