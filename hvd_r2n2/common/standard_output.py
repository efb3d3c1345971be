"""Results on standard output, which may be full or a closed pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def show(text: str) -> None:
    """Print a result at once.

    Raises:
        OSError: it cannot be written; names the standard output.
    """
    with naming_standard_output():
        print(text, flush=True)


def write_and_show(display: Callable[[], None], *files: tuple[Path | None, Callable[[Path], None]]) -> None:
    """Write results to the files that are asked for, each by its own function, then print them by `display`.

    They are printed in any case: where one cannot be written, the other may still be.
    """
    try:
        for path, write in files:
            if path is not None:
                write(path)
    finally:
        display()


@contextmanager
def naming_standard_output() -> Iterator[None]:
    """Name the standard output in an error of writing to it, which the system does not do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
