"""A category's cache in the making: what is built stays when the builder is interrupted or killed.

    NAME.cache.partial    the cache itself, without its index: room for the preamble, then payload after payload
    NAME.cache.journal    JSON: the key, then a line a model: name, boxes, digest, problems; added after its payload

Who goes on believes a line only if the payload has its digest, so nothing must be synced to disk on the way. The
caller holds the folder's lock.
"""

import errno
import hashlib
import io
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np

from hvd_r2n2.data.cache import JSON_LENGTH, MAGIC, PREAMBLE, CacheKey
from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.check import Problem
from hvd_r2n2.data.decode import CHANNELS, DecodedModel, model_digest, packed_bytes

PARTIAL_SUFFIXES = (".partial", ".journal")

_MAX_LINE_BYTES = 1 << 16


class CacheWriter:
    """Writes a cache model by model, going on where an earlier writer of the same key was interrupted.

    A context manager. A disk that is full gets back what has been written; whatever else ends the block early keeps it.
    """

    def __init__(self, path: Path, key: CacheKey, model_ids: Sequence[str]) -> None:
        """Open or begin the cache `path` of these models, in their order.

        Raises:
            OSError: it cannot be written.
        """
        self._path, self._key, self._model_ids = path, key, tuple(model_ids)
        self._partial, self._journal = (path.with_name(path.name + suffix) for suffix in PARTIAL_SUFFIXES)
        self._boxes: list[bytes] = []
        self._digests: list[bytes] = []
        self._problems: list[dict[str, str]] = []
        with ExitStack() as stack:
            # Unbuffered: what add() has written outlives this process.
            self._payloads = stack.enter_context(_open(self._partial))
            self._lines = stack.enter_context(_open(self._journal))
            self._recover()
            self._files = stack.pop_all()
        self.num_recovered = len(self._digests)
        """Models that an earlier writer has written; `add` goes on after them."""

    @property
    def payload_bytes(self) -> int:
        """Bytes written so far."""
        return self._payloads.tell() - PREAMBLE.size

    def add(self, model: DecodedModel) -> None:
        """Write the next model.

        Raises:
            OSError: no room.
        """
        _write(self._payloads, model.payload)
        problems = [asdict(problem) for problem in model.problems]
        record = {
            "model": self._model_ids[len(self._digests)],
            "boxes": model.boxes.tobytes().hex(),
            "digest": model.digest.hex(),
            "problems": problems,
        }
        _write(self._lines, (json.dumps(record) + "\n").encode())
        self._take(model.boxes.tobytes(), model.digest, problems)

    def finish(self) -> None:
        """Add the index, and give the cache its name once it is on the disk.

        Raises:
            OSError: no room.
        """
        assert len(self._digests) == len(self._model_ids)
        described = json.dumps(
            {"key": asdict(self._key), "models": list(self._model_ids), "problems": self._problems}
        ).encode()
        index = b"".join((JSON_LENGTH.pack(len(described)), described, *self._boxes, *self._digests))
        index_offset = self._payloads.tell()
        _write(self._payloads, index)
        total = index_offset + len(index)
        self._payloads.seek(0)
        _write(self._payloads, PREAMBLE.pack(MAGIC, index_offset, len(index), total, hashlib.sha256(index).digest()))
        os.fsync(self._payloads.fileno())
        self._files.close()
        self._partial.replace(self._path)
        self._journal.unlink(missing_ok=True)

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or not self._digests:
            self._partial.unlink(missing_ok=True)
            self._journal.unlink(missing_ok=True)

    def _take(self, boxes: bytes, digest: bytes, problems: Sequence[dict[str, str]]) -> None:
        self._boxes.append(boxes)
        self._digests.append(digest)
        self._problems += problems

    def _recover(self) -> None:
        """Take over the models that are whole in both files, and cut off what follows them."""
        header = (json.dumps(asdict(self._key)) + "\n").encode()
        first, *lines = self._lines.read(_MAX_LINE_BYTES * (len(self._model_ids) + 1)).splitlines(keepends=True) or [
            b""
        ]
        is_ours = first == header
        # The room for the preamble is written first; an earlier writer may not have come so far.
        end, lines_end = PREAMBLE.size, len(header)
        self._payloads.seek(end)
        for line in lines[: len(self._model_ids)] if is_ours else ():
            num_bytes = self._recover_one(line)
            if num_bytes is None:
                break
            end, lines_end = end + num_bytes, lines_end + len(line)
        self._payloads.truncate(end)
        self._payloads.seek(end)
        if not is_ours:
            self._lines.seek(0)
            _write(self._lines, header)
        self._lines.truncate(lines_end)
        self._lines.seek(lines_end)

    def _recover_one(self, line: bytes) -> int | None:
        """Take a model over if its line is whole and its payload is what the line says; return the payload's bytes."""
        try:
            if not line.endswith(b"\n"):
                return None
            record = json.loads(line)
            boxes, digest = bytes.fromhex(record["boxes"]), bytes.fromhex(record["digest"])
            problems = [asdict(Problem(**problem)) for problem in record["problems"]]
            boxes_V4 = np.frombuffer(boxes, dtype=np.uint8).reshape(self._key.num_views, 4)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if (boxes_V4[:, :2].astype(int) + boxes_V4[:, 2:] > IMAGE_SIZE).any():
            return None
        name = self._model_ids[len(self._digests)]
        num_bytes = 0
        if not problems:
            crops = int(np.prod(boxes_V4[:, 2:], axis=1, dtype=np.int64).sum())
            num_bytes = packed_bytes(self._key.voxel_resolution) + CHANNELS * crops
            payload = self._payloads.read(num_bytes)
            if model_digest(f"{self._key.synset}/{name}", boxes_V4, payload) != digest:
                return None
        elif boxes_V4.any() or any(digest) or len(digest) != hashlib.sha256().digest_size:
            return None
        if record["model"] != name:
            return None
        self._take(boxes, digest, problems)
        return num_bytes


def _open(path: Path) -> io.FileIO:
    # Read and written from where it was left; "a" would write at the end, wherever that has been cut off.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return io.FileIO(descriptor, "r+")


def _write(file: io.FileIO, content: bytes) -> None:
    """Write all of it: one call may write less, on a disk that is nearly full."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
