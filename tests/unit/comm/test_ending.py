"""A command that fails gives its code and its reason, whatever becomes of its output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hvd_r2n2.common.exit_codes import ExitCode
from tests.conftest import run_command

INTERRUPTED = """
from hvd_r2n2.comm import run_door

def main() -> None:
    print("a line that is not written yet")
    raise KeyboardInterrupt

run_door("door", main)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("full", "message"), [("> /dev/full", "door: interrupted\n"), ("> /dev/full 2>&1", "")])
def test_full_disk_for_the_output_keeps_the_code(full: str, message: str) -> None:
    done = run_command(
        ["bash", "-c", f'"$@" {full}', "bash", sys.executable, "-c", INTERRUPTED],
        environment={"PYTHONUNBUFFERED": ""},
    )
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, message)


@pytest.mark.parametrize(
    ("closed", "message"),
    [(">&-", "door: interrupted\n"), ("2>&-", ""), ("<&- >&- 2>&-", "")],
    ids=["output", "error", "all"],
)
def test_closed_streams_keep_the_code(closed: str, message: str) -> None:
    done = run_command(["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-c", INTERRUPTED])
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, message)
