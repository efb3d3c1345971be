"""What commands take: types of arguments for argparse, and names of which only some are known."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable


def count(text: str) -> int:
    """Read a whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not possible (a whole number, 1 or more)")
    return int(text)


def known_hint(name: str, known: Iterable[str]) -> str:
    """Return how to go on after "NAME is not known": with the nearest known name, if one is near, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return (f", did you mean {near[0]}?" if near else "") + f" (known: {', '.join(names)})"
