"""The command `plan`: what it prints and writes, and that training takes what it wrote.

No figure is compared with another one: the machine that tests run on may be busy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from tests.conftest import Launcher, run_command
from tests.doors import forking

TINY = (
    *("--set", "model.name=3d-gru-1", "--set", "model.width=0.0625", "--set", "train.device=cpu"),
    *("--set", "train.batch_size=4", "--set", "train.max_views=2", "--set", "train.cpu_threads=2"),
    *("--measure-steps", "1", "--measure-seconds", "1"),
)
PLAN = ("-m", "hvd_r2n2.plan", *TINY)


@pytest.fixture(scope="module")
def forked() -> Iterator[Launcher]:
    """Run short commands of plan."""
    with forking("hvd_r2n2.plan") as run:
        yield run


def test_plan_and_train(python: Launcher, tiny_data: Path, tmp_path: Path) -> None:
    out, found = tmp_path / "plan.yaml", tmp_path / "plan.json"
    result = python(*PLAN, "--set", "split.strategy=pipeline", "--out", out, "--json", found)
    assert result.returncode == 0, result.stderr
    for word in (
        "one device",
        "data parallel",
        "pipeline",
        "device 0 |",
        "device 1 |",
        "Data parallelism over the same",
    ):
        assert word in result.stdout
    config = load_config(out)
    assert config.split.strategy == "pipeline"
    assert config.split.cut is not None
    assert config.model.width == 0.0625
    content = json.loads(found.read_text(encoding="utf-8"))
    assert content.keys() >= {
        "command",
        "date",
        "hardware",
        "versions",
        "settings",
        "machine_costs",
        "call_costs",
        "candidates",
    }
    assert content["choice"]["plan"]["cut"] == list(config.split.cut)
    assert {candidate["name"] for candidate in content["candidates"]} == {"one device", "data parallel", "pipeline"}
    words = ("data.root=" + str(tiny_data), "train.steps=1", "data.validation_fraction=0.4", "log.tensorboard=false")
    overrides = [word for setting in words for word in ("--set", setting)]
    trained = python("-m", "hvd_r2n2.train", "--config", out, *overrides, "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr


def test_every_strategy_is_considered(python: Launcher, tmp_path: Path) -> None:
    found = tmp_path / "plan.json"
    result = python(*PLAN, "--ranks", "2", "--json", found)
    assert result.returncode == 0, result.stderr
    content = json.loads(found.read_text(encoding="utf-8"))
    names = {candidate["name"] for candidate in content["candidates"]}
    assert names == {"one device", "data parallel", "pipeline", "kernel", "spatial"}
    assert all(sum(c["micro_batch_sizes"]) in (1, 2) for c in content["candidates"]), "4 samples over 2 ranks"
    assert content["ranks"] == 2


@pytest.mark.parametrize(("output", "reason"), [("> /dev/full", "No space left on device"), ("| true", "Broken pipe")])
def test_files_are_written_where_standard_output_cannot_be(output: str, reason: str, tmp_path: Path) -> None:
    out, found = tmp_path / "plan.yaml", tmp_path / "plan.json"
    shell = ("bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "bash")
    words = ("--set", "split.strategy=kernel", "--out", out, "--json", found)
    result = run_command([*shell, sys.executable, *PLAN, *words], environment={"PYTHONUNBUFFERED": ""})
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"hvd_r2n2.plan: error: standard output: {reason}"
    assert load_config(out).split.strategy == "kernel"
    assert json.loads(found.read_text(encoding="utf-8"))["choice"]


@pytest.mark.parametrize("words", [("--check",), ("--device", "h100", "--ranks", "1..2")], ids=["check", "prediction"])
def test_predictions_are_written_where_standard_output_cannot_be(words: tuple[str, ...], tmp_path: Path) -> None:
    scale = (sys.executable, "-m", "hvd_r2n2.plan", "scale", *words, "--json", tmp_path / "scale.json")
    result = run_command(["bash", "-c", '"$@" > /dev/full', "bash", *scale], environment={"PYTHONUNBUFFERED": ""})
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "hvd_r2n2.plan: error: standard output: No space left on device"
    assert "command" in json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))


def test_a_network_without_a_volume_has_no_spatial_split(python: Launcher) -> None:
    words = ("model.name=alexnet", "model.width=0.0625", "train.batch_size=2", "train.device=cpu")
    overrides = [word for setting in words for word in ("--set", setting)]
    result = python("-m", "hvd_r2n2.plan", *overrides, "--measure-steps", "1", "--measure-seconds", "1")
    assert result.returncode == 0, result.stderr
    assert "Not possible: spatial split: the network has no volume" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "split.strategy=kernel", "--set", "split.micro_batches=9"), "split.micro_batches: 9 is more than"),
        (
            ("--set", "split.cut=[decoder.block7]"),
            "split.cut: would be ignored, it only goes with split.strategy=pipeline",
        ),
        (("--set", "split.strategy=pipeline", "--set", "split.cut=[block7]"), "no stage is called block7"),
        (("--ranks", "3"), "train.batch_size: 4 cannot be divided evenly over 3 rank(s)"),
        (("--measure-steps", "0"), "argument --measure-steps: 0 is not possible (a whole number, 1 or more)"),
        (("--ranks", "two"), "argument --ranks: two is not possible (a whole number, 1 or more)"),
    ],
)
def test_mistakes_are_said_before_anything_is_measured(forked: Launcher, words: tuple[str, ...], message: str) -> None:
    result = forked(*TINY, *words)
    assert result.returncode != 0
    assert message in result.stderr
    assert "measuring" not in result.stderr
    assert "Traceback" not in result.stderr


def test_calibration_measures_ranks_and_its_links_can_be_used(
    python: Launcher, mpirun: Launcher, tmp_path: Path
) -> None:
    out, again = tmp_path / "calibration.json", tmp_path / "scale.json"
    scale = ("-m", "hvd_r2n2.plan", "scale", *TINY)
    short = ("--ranks", "2", "--networks", "memory", "--rounds", "2", "--warmup", "1", "--largest-mib", "16")
    done = python(*scale, "--set", "horovod.cycle_time_ms=2", "--calibrate", *short, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content.keys() >= {"command", "hardware", "versions", "settings", "date"}
    assert content["left_out"] == {}
    assert content["fusion"] == {"threshold_bytes": 0, "cycle_s": 0.002}
    assert {entry["bytes"] for entry in content["allreduces"]} == {2**12, 2**16, 2**20, 2**22, 2**24}
    assert [entry["ranks"] for entry in content["steps"]] == [1, 2]
    for entries, model in ((content["allreduces"], "fitted_s"), (content["steps"], "predicted_s")):
        for entry in entries:
            assert len(entry["times_s"]) == 2
            assert min(entry["times_s"]) > 0
            assert entry["median_s"] == pytest.approx(sum(entry["times_s"]) / 2)
            assert entry["error"] == pytest.approx(entry[model] / entry["median_s"] - 1)
    one, two = content["steps"]
    assert one["relative_error"] == pytest.approx(0)
    assert one["disturbed"] in (True, False)
    assert "disturbed" not in two  # its ranks talk, so their share of the processors says nothing of others
    ratio = (two["predicted_s"] / one["predicted_s"]) / (two["median_s"] / one["median_s"])
    assert two["relative_error"] == pytest.approx(ratio - 1)
    errors = content["errors"]["allreduces"]
    assert errors["largest"] == max(abs(entry["error"]) for entry in content["allreduces"]) >= errors["median"]
    for word in ("memory", "allreduces alone", "which nothing is fitted to", "largest"):
        assert word in done.stdout
    used = ("--device", "h100", "--network", "memory+memory", "--calibration", out, "--ranks", "1..2", "--json", again)
    done = python("-m", "hvd_r2n2.plan", "scale", *used)
    assert done.returncode == 0, done.stderr
    assumptions = json.loads(again.read_text(encoding="utf-8"))["assumptions"]
    assert assumptions["cluster"]["between"] == content["links"]["memory"]
    assert assumptions["fusion"] == content["fusion"]
