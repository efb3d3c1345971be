"""Results on standard output, which may be full or a closed pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def show(text: str) -> None:
    """Print a result at once.

    Raises:
        OSError: it cannot be written; names the standard output.
    """
    with naming_standard_output():
        print(text, flush=True)


@contextmanager
def naming_standard_output() -> Iterator[None]:
    """Name the standard output in an error of writing to it, which the system does not do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
