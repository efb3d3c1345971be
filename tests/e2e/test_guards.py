"""What training does about a loss that jumps and a sample that was damaged: the same over ranks and resumptions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.data.dataset import open_dataset
from tests.conftest import Launcher
from tests.short_runs import SIGNALLED, TRAIN, largest_difference, settings, weights
from tests.tiny_data import write_tiny_data

STEPS = 18
# With hardly any learning the loss goes up and down with the batches, and half of the steps are above the median.
SPIKY = {
    "train__batch_size": 2,
    "train__spike_factor": 1.000001,
    "optimizer__name": "sgd",
    "optimizer__learning_rate": 1e-4,
}
FILES = ("model.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def spiky(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> tuple[list[str], Path]:
    """Settings with which some steps are skipped, and such a run."""
    arguments = settings(
        tiny_data,
        train__steps=STEPS,
        train__spike_action="skip",
        **SPIKY,
        checkpoint__every_steps=4,
        evaluation__every_steps=100,
    )
    run = tmp_path_factory.mktemp("spiky") / "run"
    done = python(*TRAIN, *arguments, "--out", run)
    assert done.returncode == 0, done.stderr
    return arguments, run


def skipped(run: Path) -> list[int]:
    return [int(step) for step in re.findall(r"step (\d+): the loss .* is a spike", (run / "train.log").read_text())]


def test_skipped_steps_are_the_same_after_a_resumption(
    spiky: tuple[list[str], Path], tmp_path: Path, python: Launcher
) -> None:
    arguments, whole = spiky
    assert 1 < len(skipped(whole)) < STEPS - 11
    run = tmp_path / "run"
    killed = python(
        "-c", SIGNALLED, "KILL", "hvd_r2n2.training.step", "TrainingStep.run", "0", "15", *arguments, "--out", run
    )
    assert killed.returncode == -9
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(set(skipped(run))) == skipped(whole)
    for name in FILES:
        assert (run / "checkpoints/last" / name).read_bytes() == (whole / "checkpoints/last" / name).read_bytes()
    states = [json.loads((folder / "checkpoints/last/state.json").read_text())["spikes"] for folder in (run, whole)]
    assert states[0] == states[1]
    assert states[0]["skipped"] == len(skipped(whole))


def test_skipped_steps_are_the_same_on_two_ranks(
    spiky: tuple[list[str], Path], tmp_path: Path, mpirun: Launcher
) -> None:
    arguments, whole = spiky
    done = mpirun(2, *TRAIN, *arguments, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert skipped(tmp_path / "run") == skipped(whole)
    assert largest_difference(weights(tmp_path / "run", STEPS), weights(whole, STEPS)) <= 1e-12


def test_damaged_sample_is_replaced_alike_or_stops(tmp_path: Path, python: Launcher, mpirun: Launcher) -> None:
    data = write_tiny_data(tmp_path / "data")
    arguments = settings(data, train__steps=6, evaluation__every_steps=100, log__every_steps=1)
    dataset = open_dataset(load_config(None, arguments[1::2]).data, data, 32, lambda text: None)
    for path in data.rglob("*.cache"):  # the grid of a category's first model that trains
        cache = next(place.cache for place in dataset._locations if place.cache._path == path)
        sample = next(s for s in dataset.train if dataset._locations[s].cache is cache)
        with path.open("r+b") as file:
            file.seek(int(cache._grid_offsets_N[dataset._locations[sample].position]))
            file.write(b"\xa5")
    replace = ("--set", "data.damaged_samples=replace")
    alone = python(*TRAIN, *arguments, *replace, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    two = mpirun(2, *TRAIN, *arguments, *replace, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    warned = [replaced(done.stderr) for done in (alone, two)]
    assert warned[0] == warned[1] != []
    totals = [sum(number <= step for number, _ in warned[0]) for step in range(1, 7)]
    assert totals[0] < totals[-1]
    for run in (tmp_path / "alone", tmp_path / "two"):
        assert replaced_totals(run) == totals
    assert largest_difference(weights(tmp_path / "alone", 6), weights(tmp_path / "two", 6)) <= 1e-12
    resumed = mpirun(2, *TRAIN, "--resume", "--out", tmp_path / "two", "--set", "train.steps=7")
    assert resumed.returncode == 0, resumed.stderr
    assert replaced_totals(tmp_path / "two") == [*totals, totals[-1] + len(replaced(resumed.stderr))]
    stopped = python(*TRAIN, *arguments, "--out", tmp_path / "stopped")
    assert stopped.returncode == 1
    first = f"step {warned[0][0][0]}"
    assert re.search(rf"error: reading sample \S+ for {first}: .*damaged at \S+; remove this file", stopped.stderr)


def replaced(output: str) -> list[tuple[int, str]]:
    found = re.findall(r"warning: step (\d+): (\S+ takes the place of \S+) ", output)
    return sorted((int(step), text) for step, text in found)


def replaced_totals(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["data/replaced_total"] for record in records if "train/loss" in record]
