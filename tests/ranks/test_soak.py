"""The short form of scripts/soak.py; its recorded run of 50 kills is in benchmarks/reliability.md."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import REPOSITORY, Launcher


def test_run_killed_at_random_moments_ends_in_the_same_bits(tmp_path: Path, python: Launcher) -> None:
    done = python(REPOSITORY / "scripts" / "soak.py", tmp_path, "--kills", "2", "--steps", "40", "--latest-s", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills in a row: weights, optimizer and losses are the same bits as undisturbed" in done.stdout
