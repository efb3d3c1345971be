"""The set-up script: what it says when something is missing, and that a second run changes nothing."""

from __future__ import annotations

import os
import platform
import sys
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


def test_another_python_than_the_environments_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text(
        f"""#!/bin/sh\ncase "$2" in *base_prefix*) echo 3.99.0 in /opt/other;; *) exec {sys.executable} "$@";; esac\n"""
    )
    other.chmod(0o755)
    done = run_command([SETUP], environment={"VENV": str(BIN.parent), "PYTHON": str(other)})
    assert done.returncode == 1
    assert f"setup: error: {BIN.parent} was made from Python {platform.python_version()} in " in done.stderr
    assert f"and PYTHON={other} is 3.99.0 in /opt/other\n       rm -r {BIN.parent}   to make it anew" in done.stderr


TOOLKIT = ("include/cuda.h", "include/cuda_runtime.h", "lib64/libcudart.so", "lib64/libcudart_static.a")


@pytest.mark.parametrize(
    ("release", "files", "nccl", "gpu", "message"),
    [
        ("", (), "", "cpu", "torch has CUDA 13.0, but this is missing: nvcc\n"),
        (
            "13.0",
            TOOLKIT[:2],
            "",
            "cpu",
            "this is missing: libcudart.so libcudart_static.a (in {cuda}, where nvcc is)\n",
        ),
        ("12.4", TOOLKIT, "", "cpu", "this is missing: nvcc of CUDA 13 ({cuda}/bin/nvcc is of 12.4)\n"),
        ("13.0", TOOLKIT, "", "cuda-13.0", "there is no NCCL (pip's nvidia-nccl, or HOROVOD_NCCL_HOME)"),
        ("13.0", TOOLKIT, "/opt/nccl", "nccl-cuda-13.0", ""),
    ],
)
def test_horovod_is_built_for_the_cuda_that_is_whole(
    release: str, files: tuple[str, ...], nccl: str, gpu: str, message: str, tmp_path: Path
) -> None:
    def program(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    cuda = tmp_path / "cuda"
    program(
        tmp_path / "venv" / "bin" / "python", '[ "$1" = -c ] && echo 13.0'
    )  # a torch with CUDA, and no NCCL package
    if release:
        told = f'echo "#$ TOP={cuda}/bin/.."; echo "tools, release {release}, V{release}.1"'
        program(cuda / "bin" / "nvcc", f"{told}; sleep 0.2; echo Build")  # to whoever reads on
    for file in files:
        (cuda / file).parent.mkdir(exist_ok=True)
        (cuda / file).touch()
    done = run_command(
        ["bash", "-c", f"source {SETUP}; choose_gpu_operations; echo gpu=$gpu"],
        environment={
            "PATH": f"{cuda}/bin:/usr/bin:/bin",
            "VENV": str(tmp_path / "venv"),
            "HOROVOD_NCCL_HOME": nccl,
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"gpu={gpu}\n")
    assert message.format(cuda=cuda) in done.stdout


def test_demo_removes_nothing_but_a_run(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "horovodrun").write_text("#!/bin/sh\nexit 7\n")  # the demo gets no further than its first command
    (programs / "horovodrun").chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def demo(folder: Path) -> tuple[int, str]:
        done = run_command([REPOSITORY / "scripts" / "demo.sh", folder], environment=environment)
        return done.returncode, done.stderr

    mine = tmp_path / "mine"
    (mine / "checkpoints").mkdir(parents=True)
    code, message = demo(mine)
    assert (code, mine.exists()) == (1, True)
    assert (
        message == f"demo: error: {mine} is there and is not a run (config.yaml, checkpoints/): remove it, or name "
        "another folder\n"
    )
    (mine / "config.yaml").touch()
    assert demo(mine)[0] == 7
    assert not mine.exists()
    mine.mkdir()
    assert demo(mine)[0] == 7
