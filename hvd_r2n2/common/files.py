"""Writing a file so that its name never stands for half of it, and reading one that may come from strangers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 1 << 24
"""More than any file of settings, results or sums has."""

NO_FILE_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What flock says on a file system that has no file locks."""


def error_text(error: Exception) -> str:
    """Return what an error says; the file first where the system names one, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, in the same folder; it takes the name ``path`` once the block has ended well.

    Raises:
        OSError: it cannot be written; names ``path``, which the system does not do where the disk is full.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def check_can_write(*paths: Path | None) -> None:
    """Try nothing, but see that files can be written, before hours are spent on what goes there.

    Raises:
        ValueError: one of those given is a directory, or its directory is not there or may not be written to.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{path} is a directory, not a file to write")
        if not path.parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no directory {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: {path.parent} may not be written to")


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 16 MiB.

    Raises:
        ValueError: it is larger, or not JSON.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"larger than {MAX_JSON_BYTES:,} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
