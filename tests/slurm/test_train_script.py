"""`slurm/train.sh` with a scontrol and a launcher of the tests' own: what they print and do; no Slurm is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "slurm" / "train.sh"
SCONTROL = """#!/bin/sh
[ "$1" = show ] || exec echo "$@" >> "$JOURNAL"
record() { printf 'JobId=17 ArrayJobId=17 JobName=mine\\n   Command=%s --set train.seed=1\\n\\n' "$SCRIPT"; }
for i in $(seq "${TASKS:-1}"); do record; done
[ "${TASKS:-1}" = 1 ] || sleep 0.5  # a reader that is content with the first record has gone by then
for i in $(seq "${TASKS:-1}"); do record; done
"""
MPIRUN = """#!/bin/sh
echo mpirun "$@" >> "$JOURNAL"
eval "$RANKS"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to call the script in."""
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("mpirun", MPIRUN)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def start(place: Path, ranks: str, **environment: str) -> tuple[int, str, list[str]]:
    """Start job 17; return its code, what it says on standard error, and the calls of launcher and scontrol."""
    own = {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "JOURNAL": str(place / "journal"),
        "SCRIPT": str(SCRIPT),
        "RANKS": ranks,
        "RUN": "mine",
        "VENV": "",
        "LAUNCHER": "mpirun",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "mine",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": "1",
    }
    (place / "journal").write_text("")
    command = ["bash", str(SCRIPT), "--set", "train.seed=1"]
    done = subprocess.run(
        command, cwd=place, env=os.environ | own | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, [line.split()[0] for line in (place / "journal").read_text().splitlines()]


def test_first_of_many_records_of_an_array_is_read(place: Path) -> None:
    assert start(place, "exit 0", TASKS="150") == (0, "", ["mpirun"])
