"""`slurm/train.sh` with a scontrol and a launcher of the tests' own: what they print and do; no Slurm is needed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data import progress
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.telemetry import RunLog
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
NEW_CHECKPOINT = "mkdir -p mine/checkpoints; ln -sfn step-$(wc -l < mine/.starts) mine/checkpoints/last; exit 85"


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


def test_job_without_a_new_checkpoint_is_requeued_three_times(place: Path) -> None:
    for _ in range(2):  # by hand it can be requeued after that, and counts anew
        for _ in range(3):
            assert start(place, "exit 85") == (0, "", ["mpirun", "requeue"])
        code, message, calls = start(place, "exit 85")
        assert (code, calls) == (1, ["mpirun"])
        assert "train.sh: error: 4 starts in a row have made no new checkpoint" in message
        assert "--time" in message
        assert "--signal" in message
        assert f"RUN=mine sbatch {SCRIPT} …" in message


@pytest.fixture
def decoding_line(place: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What training's log says while it decodes data."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with RunLog(place / "decoding", is_root=True, is_under_launcher=True) as log:
        open_dataset(DataConfig(cache_dir=str(place / "cache")), tiny_data, 32, log.line)
    return next(
        line for line in (place / "decoding" / "train.log").read_text().splitlines() if "decoding models: " in line
    )


def test_start_that_goes_on_decoding_counts_as_one_that_gets_on(place: Path, decoding_line: str) -> None:
    for rest in range(1_006, 1_000, -1):
        line = re.sub(" of [0-9]+,", f" of {rest:,},", decoding_line)
        assert line != decoding_line
        assert start(place, f"echo '{line}' >> mine/train.log; exit 85") == (0, "", ["mpirun", "requeue"])
    for _ in range(3):
        assert start(place, "exit 85") == (0, "", ["mpirun", "requeue"])
    assert start(place, "exit 85")[0] == 1


def test_starts_that_decode_the_same_data_again_do_not_get_on(place: Path, decoding_line: str) -> None:
    ranks = f"echo '{decoding_line}' >> mine/train.log; exit 85"
    for _ in range(4):
        assert start(place, ranks) == (0, "", ["mpirun", "requeue"])
    code, message, calls = start(place, ranks)
    assert (code, calls) == (1, ["mpirun"])
    assert "4 starts in a row have made no new checkpoint" in message


def test_job_that_takes_its_node_down_is_not_started_a_fifth_time(place: Path) -> None:
    for _ in range(4):
        assert start(place, "kill -KILL $PPID") == (-9, "", ["mpirun"])  # Slurm requeues it by itself
    code, message, calls = start(place, "kill -KILL $PPID")
    assert (code, calls) == (1, [])
    assert "a node fails each time" in message


def test_job_that_gets_on_is_requeued_as_often_as_it_takes(place: Path) -> None:
    for _ in range(4):
        assert start(place, NEW_CHECKPOINT) == (0, "", ["mpirun", "requeue"])
    for _ in range(3):
        assert start(place, "exit 85") == (0, "", ["mpirun", "requeue"])
    for _ in range(2):
        assert start(place, NEW_CHECKPOINT) == (0, "", ["mpirun", "requeue"])


def test_another_job_of_the_same_run_counts_anew(place: Path) -> None:
    for _ in range(3):
        start(place, "exit 85")
    assert start(place, "exit 85", SLURM_JOB_ID="18") == (0, "", ["mpirun", "requeue"])
