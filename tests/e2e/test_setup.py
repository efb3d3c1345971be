"""The set-up script: what it says when something is missing, and that a second run changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import BIN, REPOSITORY, run_command

SETUP = REPOSITORY / "scripts" / "setup.sh"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PYTHON": "no-such-python"}, "no 'no-such-python' on PATH\n       sudo apt-get install python3 python3-venv"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler 'no-such-compiler' on PATH: Horovod is built from source\n"),
        ({"HVD_R2N2_MPI": "mine"}, "HVD_R2N2_MPI=mine is not known (use wheel or system)"),
    ],
)
def test_missing_tool_is_named_before_anything_is_made(
    environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    apart = {"VENV": str(tmp_path / "venv"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run_command([SETUP], environment=apart | environment)
    assert done.returncode == 1
    assert f"setup: error: {message}" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_unknown_argument_is_refused() -> None:
    done = run_command([SETUP, "--fast"])
    assert done.returncode == 2
    assert "unknown argument '--fast' (known: --force --without-horovod)" in done.stderr


def test_complete_environment_is_left_alone() -> None:
    environment = BIN.parent
    if not (environment / ".setup").exists():
        pytest.skip(f"{environment} was not made by scripts/setup.sh")
    before = (environment / ".setup").stat().st_mtime_ns
    done = run_command([SETUP], environment={"VENV": str(environment)})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"setup: {environment} is complete, nothing to do\n"
    assert (environment / ".setup").stat().st_mtime_ns == before
