"""`slurm/benchmark.sh` and `slurm/sweep.sh` on a real Slurm: jobs, an array, and one that gathers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.short_runs import settings
from tests.slurm.conftest import Cluster


def gathered(cluster: Cluster, name: str, folder: Path, first: str, *words: str, **environment: str) -> dict[str, Any]:
    """Start a script, wait for the last of its jobs, and return what that wrote."""
    options = ("--time=10", "--cpus-per-task=1", "--")
    cluster.run(REPOSITORY / "slurm" / f"{name}.sh", first, *options, *words, cwd=folder, RUN="all", **environment)
    picture = folder / "all" / f"{name}.png"  # written after the figures
    cluster.until(picture.exists, f"{picture}: {[path.read_text() for path in picture.parent.glob('*.log')]}")
    content: dict[str, Any] = json.loads(picture.with_suffix(".json").read_text())
    return content


def test_scaling_is_measured_over_numbers_of_ranks(data: Path, folder: Path, cluster: Cluster) -> None:
    words = settings(data, train__dtype="float32", train__steps=4, log__every_steps=1)
    content = gathered(cluster, "benchmark", folder, "1 2", *words, BATCH_PER_RANK="3", RANKS_PER_NODE="1")
    assert content["left_out"] == {}
    assert [(row["ranks"], row["settings"]) for row in content["runs"]] == [
        (1, {"train.batch_size": 3}),
        (2, {"train.batch_size": 6}),
    ]
    assert "speed-up" in (folder / "all" / "gather.log").read_text()


def test_sweep_trains_once_for_each_line(data: Path, folder: Path, cluster: Cluster) -> None:
    (folder / "lines").write_text("--set train.seed=1\n--set train.seed=2 --set train.batch_size=12\n")
    words = settings(data, train__dtype="float32", train__steps=2, log__every_steps=1)
    content = gathered(cluster, "sweep", folder, "lines", *words)
    assert content["left_out"] == {}
    assert [row["settings"] for row in content["runs"]] == [
        {"train.batch_size": 6, "train.seed": 1},
        {"train.batch_size": 12, "train.seed": 2},
    ]
