"""Exit codes are what users and their scripts are told."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

from hvd_r2n2.common.exit_codes import ExitCode

SLURM = Path(__file__).resolve().parents[3] / "slurm"


def test_every_code_is_explained_to_users() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (SLURM / "README.md").read_text(), re.MULTILINE)
    assert {int(number) for number, _ in rows} == set(ExitCode)


def test_script_requeues_by_the_code_of_a_stop() -> None:
    assert f'[ "$status" = {ExitCode.STOPPED} ]' in (SLURM / "train.sh").read_text()


def test_codes_are_what_the_system_calls_them() -> None:
    assert ExitCode.STOPPED == errno.ERESTART
    assert ExitCode.INTERRUPTED == 128 + signal.SIGINT
