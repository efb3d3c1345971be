"""`sbatch slurm/train.sh` on a real Slurm: over two nodes, stopped, without power, cut off and launched wrongly."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from tests.conftest import REPOSITORY
from tests.e2e.test_resume import FILES, losses
from tests.short_runs import settings
from tests.slurm.conftest import Cluster

SCRIPT = REPOSITORY / "slurm" / "train.sh"
STEPS = 40
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
ONE_NODE = ("--nodes=1", "--ntasks-per-node=2")


def arguments(data: Path, **values: object) -> list[str]:
    given = {"train__dtype": "float32", "train__steps": STEPS, "checkpoint__every_steps": 4, "log__every_steps": 1}
    return settings(data, **(given | {"train__batch_size": 12, "evaluation__every_steps": 20} | values))


def end_of(run: Path) -> dict[str, bytes]:
    assert (run / "checkpoints" / "last").resolve().name == f"step-{STEPS:08d}"
    return {name: (run / "checkpoints" / "last" / name).read_bytes() for name in FILES}


def num_steps(run: Path) -> int:
    return len(losses(run)) if (run / "metrics.jsonl").exists() else 0


def log_of(folder: Path, job: str) -> str:
    log = folder / f"hvd_r2n2-{job}.log"
    return log.read_text() if log.exists() else ""  # before its first start


def wait_for_steps(cluster: Cluster, job: str, folder: Path, count: int) -> Path:
    """Wait until a job has trained so many steps; return its run."""
    run = folder / "runs" / f"hvd_r2n2-{job}"
    cluster.until(lambda: num_steps(run) >= count or cluster.has_ended(job), f"{count} steps")
    assert num_steps(run) >= count, log_of(folder, job)
    return run


@pytest.fixture(scope="module")
def whole(place: Path, data: Path, cluster: Cluster) -> Path:
    """A job over both nodes that nothing interrupts, started outside the checkout with a file of its own."""
    folder = place / "whole"
    folder.mkdir()
    (folder / "settings of mine.yaml").write_text("checkpoint: {keep_last: 2}\n")
    words = ("--config", "settings of mine.yaml", *arguments(data))
    job = cluster.submit(*TWO_NODES, SCRIPT, *words, cwd=folder, RUN="run of mine")
    assert cluster.wait_for_end(job) == "COMPLETED", log_of(folder, job)
    return folder / "run of mine"


def check_same(run: Path, whole: Path) -> None:
    assert end_of(run) == end_of(whole)
    assert losses(run) == losses(whole)
    assert (run / "summary.json").exists()


def test_job_over_two_nodes_writes_one_run(whole: Path, cluster: Cluster) -> None:
    log = (whole / "train.log").read_text()
    assert "2 rank(s), Horovod" in log
    assert re.search(r"rank 0 on (\S+): .*\n.*rank 1 on (?!\1:)", log), "both ranks on one node"
    assert [step for step, _ in losses(whole)] == list(range(1, STEPS + 1))
    assert load_config(whole / "config.yaml").checkpoint.keep_last == 2
    assert {path.name for path in whole.parent.iterdir() if path.is_dir()} == {whole.name}


def test_stopped_jobs_are_requeued_and_end_in_the_same_bits(
    whole: Path, data: Path, folder: Path, cluster: Cluster
) -> None:
    without_pmix = cluster.reason_against_pmix()
    launches = {
        "mpirun": (TWO_NODES, ("node1", "node2")),
        "srun": (TWO_NODES, ("node1", "node2")),
        "horovodrun": (ONE_NODE, ("node1", "node1")),  # over nodes it needs ssh, which these do not have
    }
    if without_pmix:
        del launches["srun"]
    jobs = {}
    for launcher, (nodes, _) in launches.items():  # the next one starts while the one before waits to start again
        signal = "USR2" if launcher == "srun" else "USR1"
        jobs[launcher] = cluster.submit(*nodes, SCRIPT, *arguments(data), cwd=folder, LAUNCHER=launcher, SIGNAL=signal)
        wait_for_steps(cluster, jobs[launcher], folder, 3)
        cluster.run("scancel", "--batch", "--signal=USR1", jobs[launcher])  # as --signal=B:USR1@120 does
    for launcher, job in jobs.items():
        state, text = cluster.wait_for_end(job), log_of(folder, job)
        assert (state, cluster.facts(job)["Restarts"]) == ("COMPLETED", "1"), text
        assert "stopped after step " in text, launcher
        assert "the job is requeued" in text, launcher
        if cluster.is_throw_away:
            places = launches[launcher][1]
            assert all(f"rank {rank} on {place}: cpu:0, " in text for rank, place in enumerate(places)), text
        check_same(folder / "runs" / f"hvd_r2n2-{job}", whole)
    if without_pmix:
        pytest.skip(f"mpirun and horovodrun passed; {without_pmix}")


def test_job_whose_node_loses_power_is_requeued_and_ends_in_the_same_bits(
    whole: Path, data: Path, folder: Path, throw_away: Cluster
) -> None:
    job = throw_away.submit(*TWO_NODES, SCRIPT, *arguments(data), cwd=folder)
    run = wait_for_steps(throw_away, job, folder, 5)  # a checkpoint is there
    throw_away.power("fail", "node2")
    try:
        throw_away.until(lambda: throw_away.facts(job)["Restarts"] == "1", "the requeue")
    finally:
        throw_away.power("restore", "node2")
    assert throw_away.wait_for_end(job) == "COMPLETED", log_of(folder, job)
    assert "going on from step-" in log_of(folder, job)
    check_same(run, whole)


def test_job_waits_for_a_node_that_slurm_hands_out_before_it_is_back(
    whole: Path, data: Path, folder: Path, throw_away: Cluster
) -> None:
    # Else the job would start later, when Slurm knows that the node is down.
    throw_away.until(lambda: throw_away.run("sinfo", "-h", "-N", "-o", "%t").split() == ["idle"] * 2, "idle nodes")
    throw_away.power("fail", "node2")
    try:
        job = throw_away.submit(*TWO_NODES, SCRIPT, *arguments(data), cwd=folder)
        throw_away.until(lambda: "not every node answers yet" in log_of(folder, job), "the job to wait")
    finally:
        throw_away.power("restore", "node2")
    assert throw_away.wait_for_end(job) == "COMPLETED", log_of(folder, job)
    check_same(folder / "runs" / f"hvd_r2n2-{job}", whole)


@pytest.mark.parametrize("length", ["short", "long"])
def test_job_outlives_a_cut_of_the_network(
    length: str, whole: Path, data: Path, folder: Path, throw_away: Cluster
) -> None:
    job = throw_away.submit(*TWO_NODES, SCRIPT, *arguments(data), cwd=folder)
    run = wait_for_steps(throw_away, job, folder, 5)  # a checkpoint is there
    throw_away.network("down", "node2")
    try:
        if length == "short":
            time.sleep(2)
        else:
            throw_away.until(lambda: throw_away.facts(job)["Restarts"] == "1", "the requeue")
    finally:
        throw_away.network("up", "node2")
    assert throw_away.wait_for_end(job) == "COMPLETED", log_of(folder, job)
    assert throw_away.facts(job)["Restarts"] == ("0" if length == "short" else "1"), log_of(folder, job)
    check_same(run, whole)


def test_launch_of_fewer_ranks_than_tasks_is_refused(data: Path, folder: Path, cluster: Cluster) -> None:
    command = f"mpirun -np 2 --oversubscribe --bind-to none python -m hvd_r2n2.train --out run --set data.root={data}"
    job = cluster.submit("--nodes=1", "--ntasks=4", "--output=log", "--wrap", command, cwd=folder)
    assert cluster.wait_for_end(job) == "FAILED"
    assert "mpirun started 2 rank(s), but Slurm gave this job 4 task(s)" in (folder / "log").read_text()
    assert not (folder / "run").exists()


def test_copies_that_do_not_know_of_each_other_are_refused(data: Path, folder: Path, cluster: Cluster) -> None:
    command = f"srun --mpi=none python -m hvd_r2n2.train --out run --set data.root={data}"
    job = cluster.submit("--nodes=2", "--ntasks=2", "--output=log", "--wrap", command, cwd=folder)
    assert cluster.wait_for_end(job) == "FAILED"
    assert "srun started 2 processes (SLURM_STEP_NUM_TASKS), but not as ranks" in (folder / "log").read_text()
    assert not (folder / "run").exists()
