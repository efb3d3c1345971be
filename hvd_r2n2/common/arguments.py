"""What commands take: types of arguments for argparse."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Read a whole number of 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not possible (a whole number, 1 or more)")
    return int(text)
