"""Results on standard output, which may be full or a closed pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hvd_r2n2.common.files import error_text


def show(text: str) -> None:
    """Print a result at once.

    Raises:
        OSError: it cannot be written; names the standard output.
    """
    with naming_standard_output():
        print(text, flush=True)


def write_and_show(display: Callable[[], None], *files: tuple[Path | None, Callable[[Path], None]]) -> None:
    """Write results to the files that are asked for, each by its own function, then print them by `display`.

    Each is tried, whatever becomes of the others.

    Raises:
        OSError: several cannot be written, or printed; names all of them.
        Exception: what the only one that failed has raised, or the first that is neither a ValueError nor an OSError.
    """
    errors: list[Exception] = []
    attempts: list[Callable[[], None]] = [partial(write, path) for path, write in files if path is not None]
    for attempt in (*attempts, display):
        try:
            attempt()
        except Exception as error:
            errors.append(error)
    unforeseen = [error for error in errors if not isinstance(error, (ValueError, OSError))]
    if unforeseen or len(errors) == 1:
        raise (unforeseen or errors)[0]
    if errors:
        raise OSError("; ".join(map(error_text, errors)))


@contextmanager
def naming_standard_output() -> Iterator[None]:
    """Name the standard output in an error of writing to it, which the system does not do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error
