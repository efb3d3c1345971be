"""What a terminal can do."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console


def can_draw(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that can change what it shows; on others (TERM=dumb) rich draws no bars."""
    return stream.isatty() and not Console(file=stream, force_terminal=True).is_dumb_terminal
