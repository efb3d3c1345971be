"""Real file systems that are small or cannot be written, for tests that run as root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def mount(*arguments: str | Path) -> None:
    """Mount, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a file system for the test needs root: {done.stderr.strip()}")
