"""Names of which only some are known: the nearest one to what somebody wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_hint(text: str, name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return `text` with the known name nearest to `name` in the place of its braces; nothing where none is near.

    Args:
        text: what to say, with a field for the nearest name: `(did you mean {!r}?)`.
        name: what was written.
        known: what would have been right.
        cutoff: how alike they must be: from 0, which takes any, to 1, the same.
    """
    near = difflib.get_close_matches(name, known, 1, cutoff)
    return text.format(near[0]) if near else ""


def known_hint(name: str, known: Iterable[str]) -> str:
    """Return how to go on after "NAME is not known": with the nearest known name, if one is near, and all of them."""
    names = list(known)
    return nearest_hint(", did you mean {}?", name, names) + f" (known: {', '.join(names)})"
