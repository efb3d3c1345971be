"""A cluster for the tests: a throw-away one of this machine, or the one that this user is logged in to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, launch_environment
from tests.tiny_data import write_tiny_data

TOOL = REPOSITORY.parent / "shared" / "tools" / "slurm-local"
LIMIT_S = 150
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"}


@dataclass(frozen=True)
class Cluster:
    """Commands of Slurm, and what only a throw-away cluster allows."""

    environment: dict[str, str]
    is_throw_away: bool

    def run(self, *words: str | Path, cwd: Path | None = None, **environment: str | Path) -> str:
        """Run a command and return what it printed."""
        more = {name: str(value) for name, value in environment.items()}
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *words: str | Path, cwd: Path, **environment: str | Path) -> str:
        """Submit a job and return its number."""
        short = ("--parsable", "--time=10", "--cpus-per-task=1")
        return self.run("sbatch", *short, *words, cwd=cwd, **environment).strip()

    def facts(self, job: str) -> dict[str, str]:
        """Return what Slurm knows of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", "-o", job)))

    def has_ended(self, job: str) -> bool:
        """Whether a job is over, requeues included."""
        return self.facts(job)["JobState"] not in UNFINISHED

    def wait_for_end(self, job: str) -> str:
        """Return the state in which a job has ended."""
        self.until(lambda: self.has_ended(job), f"job {job} to end")
        return self.facts(job)["JobState"]

    def reason_against_pmix(self) -> str:
        """Say why srun cannot start ranks of MPI; empty if it can."""
        words = ["srun", "--mpi=pmix", "--ntasks=1", "true"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return ""
        return f"srun --mpi=pmix does not work here (Debian: libpmix-dev is needed): {done.stderr.strip()}"

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for something, but not for ever."""
        end = time.monotonic() + LIMIT_S
        while not is_so():
            if time.monotonic() > end:
                pytest.fail(f"waited {LIMIT_S} s for {what}\n{self.run('squeue')}{self.run('sinfo', '-N', '-l')}")
            time.sleep(0.2)

    def power(self, what: str, node: str) -> None:
        """`fail` or `restore` a node."""
        self.run(TOOL, what, node)

    def network(self, state: str, node: str) -> None:
        """Take a node's network `down` or `up`; its other end is on this machine."""
        config = Path(self.environment["SLURM_CONF"]).read_text()
        port = re.search(r"SlurmctldPort=(\d+)", config)
        assert port
        link = f"sl{int(port[1]) // 1000}n{node.removeprefix('node')}"
        self.run("ip", "link", "set", link, state)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes; the tests skip where there are none."""
    environment = launch_environment()
    if not TOOL.exists():
        if shutil.which("sbatch") is None:
            pytest.skip("no Slurm: neither sbatch on PATH nor ../shared/tools/slurm-local beside this checkout")
        if "SLURM_TEST_DIR" not in os.environ:
            pytest.skip("SLURM_TEST_DIR is not set: a folder that this cluster's nodes share, for the tests to work in")
        yield Cluster(environment, is_throw_away=False)
        return
    environment["SLURM_LOCAL_DIR"] = tempfile.mkdtemp(prefix="sl", dir="/tmp")
    up = subprocess.run([TOOL, "up", "--nodes", "2"], env=environment, capture_output=True, text=True, timeout=120)
    try:
        if up.returncode == 3:
            pytest.skip(f"Slurm is not installed here: {up.stderr.strip()}")
        assert up.returncode == 0, up.stderr
        lines = subprocess.run([TOOL, "env"], env=environment, capture_output=True, text=True, check=True).stdout
        exports = dict(re.findall(r"(\w+)=(\S+)", lines))
        if exports["SLURM_LOCAL_MODE"] == "plain":
            pytest.skip("without root the nodes would be one host (slurm-local: mode plain)")
        yield Cluster(environment | exports, is_throw_away=True)
    finally:
        subprocess.run([TOOL, "down", "--purge"], env=environment, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def throw_away(cluster: Cluster) -> Cluster:
    """A cluster whose nodes may fail."""
    if not cluster.is_throw_away:
        pytest.skip("a real cluster's nodes are not switched off (../shared/tools/slurm-local is not there)")
    return cluster


@pytest.fixture(scope="session")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that all nodes share."""
    if cluster.is_throw_away:
        yield tmp_path_factory.mktemp("slurm")
        return
    with tempfile.TemporaryDirectory(dir=os.environ["SLURM_TEST_DIR"]) as shared:
        yield Path(shared)


@pytest.fixture
def folder(place: Path) -> Path:
    """Where a test submits its jobs."""
    return Path(tempfile.mkdtemp(dir=place))


@pytest.fixture(scope="session")
def data(place: Path) -> Path:
    """Boxes in the ShapeNet layout, where all nodes see them."""
    return write_tiny_data(place / "tiny-data")
