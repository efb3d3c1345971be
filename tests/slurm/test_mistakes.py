"""Mistakes in what the scripts are given are found before the first job is submitted; no Slurm is needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SLURM = REPOSITORY / "slurm"
SBATCH = """#!/bin/sh
echo "$@" >> "$JOURNAL"
[ "$(wc -l < "$JOURNAL")" -le "${ACCEPTED:-0}" ] && echo 17
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to call the scripts in, with an sbatch that notes what it is given and refuses."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (tmp_path / "empty.txt").write_text("# nothing yet: --out\n")
    (tmp_path / "out.txt").write_text("--set train.seed=1\n--out mine\n")
    (tmp_path / "two.txt").write_text("--set train.seed=1\n\n# --set train.seed=2\n--set train.seed=3\n")
    return tmp_path


def call(place: Path, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": f"{place}/bin:{os.environ['PATH']}", "JOURNAL": str(place / "journal"), "VENV": ""}
    command = ["bash", str(SLURM / script), *words]
    return subprocess.run(
        command, cwd=place, env=os.environ | own | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["benchmark.sh", "1 x"], {}, "x: not a number of ranks"),
        (["benchmark.sh", "1 08"], {}, "08: not a number of ranks"),
        (["benchmark.sh", " "], {}, "no numbers of ranks"),
        (["benchmark.sh", "1 2 5"], {"RANKS_PER_NODE": "4"}, "RANKS_PER_NODE=4: 5 ranks cannot be divided evenly"),
        (["benchmark.sh", "1 2"], {"RANKS_PER_NODE": "0"}, "RANKS_PER_NODE=0: not possible"),
        (["benchmark.sh", "1 2"], {"BATCH_PER_RANK": "many"}, "BATCH_PER_RANK=many: not possible"),
        (["benchmark.sh", "1 2"], {"VENV": "/nowhere"}, "VENV=/nowhere: no virtual environment there"),
        (["benchmark.sh", "1", "--", "--out", "mine"], {}, "--out: set RUN instead"),
        (["sweep.sh", "absent.txt"], {}, "absent.txt: no file that can be read"),
        (["sweep.sh", "out.txt"], {}, "--out: set RUN instead"),
        (["sweep.sh", "empty.txt"], {}, "empty.txt: no lines with arguments"),
        (["sweep.sh", "two.txt"], {"VENV": "/nowhere"}, "VENV=/nowhere: no virtual environment there"),
    ],
)
def test_nothing_is_submitted(words: list[str], environment: dict[str, str], message: str, place: Path) -> None:
    done = call(place, *words, **environment)
    assert done.returncode == 2
    assert f"{words[0]}: error: {message}" in done.stderr
    assert not (place / "journal").exists()


def test_jobs_before_a_refused_one_are_named(place: Path) -> None:
    done = call(place, "benchmark.sh", "1 2 4", ACCEPTED="1")
    assert done.returncode == 2
    assert "2 ranks: sbatch has refused; jobs that are there already: 17 (scancel ends them)" in done.stderr
    assert len((place / "journal").read_text().splitlines()) == 2


def test_jobs_before_a_refused_gathering_are_named(place: Path) -> None:
    done = call(place, "sweep.sh", "two.txt", ACCEPTED="1")
    assert done.returncode == 2
    assert "gathering: sbatch has refused; jobs that are there already: 17 (scancel ends them)" in done.stderr


def test_runs_have_the_numbers_of_their_lines(place: Path) -> None:
    done = call(place, "sweep.sh", "two.txt", ACCEPTED="2", RUN="sweeps")
    assert done.returncode == 0, done.stderr
    array, gathering = (place / "journal").read_text().splitlines()
    assert "--array=1,2,4 " in array, "the third is a remark"
    assert "sweeps/0001 sweeps/0002 sweeps/0004" in gathering
    assert (place / "sweeps" / "settings.txt").read_text() == (place / "two.txt").read_text()
