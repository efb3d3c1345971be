"""Lines for people on standard error: standard output is for results."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print a line at once, or nothing where it cannot be written: no work is lost for that."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
