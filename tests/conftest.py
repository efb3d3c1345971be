"""What all tests share: real launchers, real data where it is at hand, and a watch for what a test leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.tiny_data import write_tiny_data

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

Launcher = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A few real ShapeNet models, the official split and real meshes, beside the checkout."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real sample data (../shared/data) is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes in the ShapeNet layout, 3 categories of 6."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny-data"))


def launch_environment() -> dict[str, str]:
    """Return the environment for a launcher: this Python first on PATH, and what Open MPI asks of root."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment["OMP_NUM_THREADS"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    environment["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] = "60"
    environment["OMPI_MCA_btl"] = "^ofi"  # messages do not go by it here, and it takes a second to end
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment


def run_command(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    timeout_s: float = 240,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, its output captured as text; its whole process group dies with the time limit."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=launch_environment() | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        pytest.fail(f"{command} did not end within {timeout_s:g} s\n{out}\n{err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="session")
def python() -> Launcher:
    """Run this Python with arguments: python("-m", "hvd_r2n2.train", …)."""
    return lambda *arguments, **kw: run_command([sys.executable, *arguments], **kw)


@pytest.fixture(scope="session")
def mpirun() -> Launcher:
    """Run this Python on N ranks under mpirun: mpirun(2, "-m", "hvd_r2n2.train", …)."""
    _require("mpirun")
    return lambda ranks, *arguments, **kw: run_command(
        [BIN / "mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks), sys.executable, *arguments], **kw
    )


@pytest.fixture(scope="session")
def horovodrun() -> Launcher:
    """Run this Python on N ranks under horovodrun: horovodrun(2, "-m", …), with options=("--gloo",) and so on."""
    _require("horovodrun")
    return lambda ranks, *arguments, options=(), **kw: run_command(
        [BIN / "horovodrun", *options, "-np", str(ranks), sys.executable, *arguments], **kw
    )


def _require(program: str) -> None:
    if not (BIN / program).exists():
        pytest.skip(f"{program} is not installed beside {sys.executable} (scripts/setup.sh installs it)")


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves threads, environment variables or another default dtype behind."""
    environment, threads, dtype = dict(os.environ), set(threading.enumerate()), torch.get_default_dtype()
    yield
    # Daemons of other libraries may stay; ours end with what they serve.
    left = [
        thread.name
        for thread in threading.enumerate()
        if thread not in threads and (not thread.daemon or thread.name.startswith("hvd_r2n2-"))
    ]
    names = {name for name in {*environment, *os.environ} if not name.startswith(("PYTEST_", "TORCH"))}  # their own
    changed = {name for name in names if environment.get(name) != os.environ.get(name)}
    assert not left, f"threads left behind: {left}"
    assert not changed, f"environment changed: {changed}"
    assert torch.get_default_dtype() == dtype, "default dtype changed"


@pytest.fixture(autouse=True)
def _as_many_threads_as_before() -> Iterator[None]:
    """Let torch compute with as many threads after a test as before it, whatever the test sets."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
