#!/usr/bin/env python3
"""Kill a training job at random moments, many times in a row, and resume it each time: it must end in the same bits.

    python scripts/soak.py OUT --kills 50

Two ranks train a tiny network on random boxes: once undisturbed into OUT/whole, then in OUT/run, where SIGKILL meets
one rank or the launcher with all ranks: one time in four at any moment of the start, else of the training. Called
again after --for-s, it goes on with the kills that are left. What was found is in OUT/kills.jsonl, one line a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hvd_r2n2.training.checkpoint import find_newest
from tests.running_job import assert_gone, running_job
from tests.short_runs import settings
from tests.tiny_data import write_tiny_data

LIMIT_S = 120
START_S = 6.0
FILES = ("model.safetensors", "optimizer.safetensors")


def main() -> None:
    """Kill, resume and compare as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="of the run; enough for all kills (400)")
    parser.add_argument("--latest-s", type=float, default=4, metavar="S", help="latest kill in training (4)")
    parser.add_argument("--for-s", type=float, default=float("inf"), metavar="S", help="stop here, to be called again")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    data, record = options.out / "data", options.out / "kills.jsonl"
    if not data.exists():
        write_tiny_data(data)
    arguments = settings(
        data,
        train__dtype="float32",
        train__steps=options.steps,
        checkpoint__every_steps=2,
        evaluation__every_steps=20,
        log__every_steps=1,
        log__tensorboard="true",
    )
    if not (options.out / "whole" / "summary.json").exists():
        _finish(arguments, options.out / "whole")
    done = len(record.read_text().splitlines()) if record.exists() else 0
    for number in range(done, options.kills):
        if time.monotonic() - start > options.for_s:
            print(f"{number} of {options.kills} kills so far; call again")
            return
        found = _kill(arguments, options.out / "run", Random(f"{options.seed} {number}"), options.latest_s)
        with record.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"kill {number + 1}: {found}", flush=True)
    _finish(arguments, options.out / "run")
    _compare(options.out / "run", options.out / "whole")
    _report([json.loads(line) for line in record.read_text().splitlines()])


def _kill(arguments: list[str], run: Path, random: Random, latest_s: float) -> dict[str, object]:
    """Resume the run, kill it at a random moment, and say what that cost."""
    victim, starts = random.choice(("rank 0", "rank 1", "all")), random.random() < 0.25
    after_s = random.uniform(0, START_S if starts else latest_s)
    with running_job("mpirun", [*arguments, "--resume"], run) as job:
        if not starts:
            job.wait_for_line(r"; steps \d+ to \d+")
        time.sleep(after_s)
        ranks = _children(job.process.pid)
        if job.process.poll() is not None:
            raise SystemExit(f"the run has ended before all kills were done: more --steps are needed\n{job.output}")
        killed = time.monotonic()
        if victim == "all" or len(ranks) < 2:  # before the launcher has started them
            os.killpg(job.process.pid, signal.SIGKILL)
            for pid in ranks:
                os.kill(pid, signal.SIGKILL)
        else:
            os.kill(ranks[int(victim[-1])], signal.SIGKILL)
        assert job.wait(LIMIT_S) != 0, "a killed job says that all is well"
        assert_gone(ranks)
        ended_s = time.monotonic() - killed
    newest = find_newest(run / "checkpoints", print)
    kept = 0 if newest is None else newest.step
    metrics = run / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []
    lost = max([kept, *steps]) - kept
    when = "start" if starts else "training"
    return {"when": when, "after_s": after_s, "victim": victim, "ended_s": ended_s, "step": kept, "lost": lost}


def _children(pid: int) -> list[int]:
    """Return the processes that a launcher has started; mpirun starts them by their numbers."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return sorted(map(int, listed.stdout.split()))


def _finish(arguments: list[str], run: Path) -> None:
    with running_job("mpirun", [*arguments, "--resume"], run) as job:
        code = job.wait(600)
    if code:
        raise SystemExit(f"the run failed with {code}:\n{job.output}")


def _compare(run: Path, whole: Path) -> None:
    """Compare weights, optimizer and recorded losses."""
    for name in FILES:
        one, other = ((folder / "checkpoints" / "last" / name).read_bytes() for folder in (run, whole))
        assert one == other, f"{name} is not that of the undisturbed run"
    one, other = (_losses(folder) for folder in (run, whole))
    assert one == other, "the recorded losses are not those of the undisturbed run"


def _losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["train/loss"]) for record in records if "train/loss" in record]


def _report(found: list[dict[str, float]]) -> None:
    ended = [kill["ended_s"] for kill in found]
    lost = [kill["lost"] for kill in found]
    print(
        f"{len(found)} kills in a row: weights, optimizer and losses are the same bits as undisturbed; "
        f"a job ended {statistics.median(ended):.1f} s (at most {max(ended):.1f} s) after the kill; "
        f"steps lost: mean {statistics.fmean(lost):.1f}, at most {max(lost):.0f}"
    )


if __name__ == "__main__":
    main()
