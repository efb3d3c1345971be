"""One short run as a user starts it: what it says, what it leaves, and that all of it tells the same."""

from __future__ import annotations

import io
import json
import math
import os
import re
import socket
import subprocess
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from hvd_r2n2.config import load_config
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.training.checkpoint import read_checkpoint
from hvd_r2n2.training.tasks import resolve
from tests.conftest import REPOSITORY, Launcher
from tests.short_runs import TRAIN, settings, weights
from tests.without_horovod import environment_without_horovod

STEPS = 4


@dataclass(frozen=True)
class Done:
    """A run that has ended, its arguments and what it printed."""

    folder: Path
    arguments: list[str]
    process: subprocess.CompletedProcess[str]
    seconds: float


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, mpirun: Launcher) -> Done:
    """A run of two ranks with everything switched on."""
    folder = tmp_path_factory.mktemp("train") / "run"
    arguments = settings(
        tiny_data,
        train__dtype="float32",
        train__steps=STEPS,
        checkpoint__every_steps=2,
        checkpoint__keep_last=1,
        evaluation__every_steps=2,
        log__every_steps=1,
        log__pictures=1,
        log__tensorboard="true",
    )
    start_s = time.monotonic()
    process = mpirun(2, *TRAIN, *arguments, "--out", folder)
    assert process.returncode == 0, process.stdout + process.stderr
    return Done(folder, arguments, process, time.monotonic() - start_s)


@pytest.fixture(scope="module")
def records(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def events(done: Done) -> EventAccumulator:
    accumulator = EventAccumulator(str(done.folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def test_the_time_to_the_first_step_is_told_by_phases_that_add_up(done: Done) -> None:
    lines = [line for line in done.process.stdout.splitlines() if line.startswith("first step after")]
    assert len(lines) == 1  # of both ranks, and all steps
    assert lines[0] in (done.folder / "train.log").read_text()
    found = re.fullmatch(r"first step after ([0-9.]+) s \((.*)\)", lines[0])
    assert found is not None
    total_s = float(found[1])
    phases = {name: float(seconds) for name, seconds in re.findall(r"([a-z ]+) ([0-9.]+)(?:, )?", found[2])}
    assert list(phases) == ["imports", "ranks", "data", "network", "first step"]
    assert sum(phases.values()) == pytest.approx(total_s, abs=0.05 * (len(phases) + 1))  # each is rounded
    assert 0 < phases["imports"] < total_s < done.seconds


def test_run_leaves_exactly_what_the_readme_says(done: Done) -> None:
    assert {path.name for path in done.folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "metrics.jsonl",
        "train.log",
        "tensorboard",
        "pictures",
        "evaluation.json",
        "summary.json",
        "checkpoints",
    }
    last = done.folder / "checkpoints" / "last"
    best = done.folder / "checkpoints" / "best"
    steps = {path.name for path in (done.folder / "checkpoints").iterdir()} - {"last", "best"}
    assert last.readlink() == Path(f"step-{STEPS:08d}")
    assert steps == {last.resolve().name, best.resolve().name}
    assert {path.name for path in (done.folder / "pictures").iterdir()} == {
        "validation-step-00000002.png",
        "validation-step-00000004.png",
        f"test-{best.resolve().name}.png",
    }


def test_settings_are_kept_with_the_run_and_its_checkpoints(done: Done) -> None:
    config = resolve(load_config(None, done.arguments[1::2]))
    assert load_config(done.folder / "config.yaml") == config
    checkpoint = read_checkpoint(done.folder / "checkpoints" / "last")
    assert checkpoint.config == config
    assert (checkpoint.state.step, checkpoint.state.samples_seen) == (STEPS, STEPS * 6)


def test_metrics_and_tensorboard_hold_the_same_scalars(records: list[dict[str, Any]], events: EventAccumulator) -> None:
    written: dict[str, list[tuple[int, np.float32]]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name != "step":
                written[name].append((record["step"], np.float32(value)))  # TensorBoard's precision
    shown = {
        name: [(event.step, np.float32(event.value)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert shown == written
    assert [step for step, _ in shown["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in shown["validation/iou_mean_of_samples"]] == [2, 4]
    for name in ("speed/images_per_s", "time/step_median_s", "memory/peak_bytes", "train/gradient_norm"):
        assert all(value > 0 for _, value in shown[name]), name
    for name in ("time/data_share", "time/communication_share"):
        assert all(0 <= value <= 1 for _, value in shown[name]), name


def test_tensorboard_shows_the_picture_that_is_kept_and_meshes(done: Done, events: EventAccumulator) -> None:
    shown = events.Images("validation")
    assert [image.step for image in shown] == [2, 4]
    for image in shown:
        kept = Image.open(done.folder / "pictures" / f"validation-step-{image.step:08d}.png")
        assert np.array_equal(Image.open(io.BytesIO(image.encoded_image_string)), kept)
        assert len(np.unique(kept)) > 10, "the picture is empty"
    vertices = [make_ndarray(event.tensor_proto) for event in events.Tensors("validation-0/truth_VERTEX")]
    faces = [make_ndarray(event.tensor_proto) for event in events.Tensors("validation-0/truth_FACE")]
    assert len(vertices) == len(faces) == 2
    for corners_1P3, triangles_1F3 in zip(vertices, faces, strict=True):
        assert corners_1P3.shape[::2] == triangles_1F3.shape[::2] == (1, 3)
        assert np.ptp(corners_1P3[0], axis=0).min() > 0, "the mesh is flat"
        assert triangles_1F3.max() == corners_1P3.shape[1] - 1


def test_best_checkpoint_is_that_of_the_highest_validation_iou(done: Done, records: list[dict[str, Any]]) -> None:
    ious = {
        record["step"]: record["validation/iou_mean_of_samples"]
        for record in records
        if "validation/cross_entropy" in record
    }
    best = read_checkpoint((done.folder / "checkpoints" / "best").resolve())
    assert best.step == max(ious, key=lambda step: (ious[step], -step))
    assert best.state.best_score == ious[best.step]


def test_summary_and_evaluation_agree(done: Done) -> None:
    summary = json.loads((done.folder / "summary.json").read_text())
    evaluation = json.loads((done.folder / "evaluation.json").read_text())
    assert (summary["views"], summary["ranks"], summary["steps"]) == (2, 2, STEPS)
    assert summary["train_seconds"] > 0
    assert summary["hardware"]["cores"] == os.cpu_count()
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["num_test_samples"] == evaluation["num_samples"] == 6
    (result,) = evaluation["results"]
    assert summary["iou"] == pytest.approx(result["mean_of_samples"]["iou"])
    assert summary["constant_iou"] == pytest.approx(evaluation["constant_prediction"]["iou_mean_of_samples"])
    assert 0 < summary["iou"] < 1
    assert 0 < summary["constant_iou"] < 1


def test_console_says_where_what_and_how_much(done: Done) -> None:
    out, host = done.process.stdout, socket.gethostname()
    for rank in (0, 1):
        assert out.count(f"rank {rank} on {host}: cpu:0, 1 thread(s)") == 1
    assert re.search(r"^03001627 chair +3 +1 +2 +6$", out, re.MULTILINE)
    assert re.search(r"^all +9 +3 +6 +18$", out, re.MULTILINE)
    num_parameters = sum(tensor.numel() for tensor in weights(done.folder, STEPS).values())
    assert f"{num_parameters:,} parameters; global batch 6 = 2 rank(s) x 1 micro-batch(es) x 3" in out
    assert len(re.findall(r"^step \d+  loss [\d.]+  lr ", out, re.MULTILINE)) == STEPS
    assert "\x1b" not in out
    log = (done.folder / "train.log").read_text()
    for line in out.splitlines():
        if not line.startswith(("writing", "decod", "waiting")):  # said once a host, by whichever rank did it
            assert line in log


def test_one_rank_needs_no_horovod(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    hidden = environment_without_horovod(tmp_path / "site")
    absent = python("-c", "import horovod", environment=hidden)
    assert "No module named 'horovod'" in absent.stderr
    arguments = settings(tiny_data, train__steps=1)
    done = python(*TRAIN, *arguments, "--out", tmp_path / "run", environment=hidden)
    assert done.returncode == 0, done.stderr
    assert "1 rank(s), alone (Horovod is not installed: only one rank can train)" in done.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ranks"] == 1


@pytest.mark.parametrize(
    ("more", "threads", "num_devices"),
    [
        ({"train__cpu_threads": "null"}, len(os.sched_getaffinity(0)), 1),
        ({"train__cpu_threads": 2, "split__strategy": "spatial", "split__micro_batches": 1}, 1, 2),
    ],
    ids=["one-device", "split"],
)
def test_speed_is_compared_with_the_baseline_that_was_measured_before(
    more: dict[str, object], threads: int, num_devices: int, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    small = {"train__batch_size": 2, "train__max_views": 1, "train__dtype": "float32", "evaluation__views": 1}
    compared = {"train__steps": 2, "log__every_steps": 1, "log__baseline": "measure"}
    patient = {"OMP_WAIT_POLICY": "passive"}  # several threads on busy cores would mostly spin
    arguments = settings(tiny_data, **small, **compared, **more)
    done = python(*TRAIN, *arguments, "--out", run, environment=patient)
    assert done.returncode == 0, done.stderr
    baseline = json.loads((run / "baseline.json").read_text())
    assert baseline["threads"] == threads
    one_device = 2 / baseline["steps_by_views"]["1"]["median_s"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "speed/images_per_s" in record]
    assert [record["step"] for record in steps] == [1, 2]
    for record in steps:
        speedup = record["speed/images_per_s"] / one_device
        assert record["speed/baseline_images_per_s"] == pytest.approx(one_device)
        assert record["speed/speedup"] == pytest.approx(speedup)
        assert record["speed/parallel_efficiency"] == pytest.approx(speedup / num_devices)
    assert "of one device (" in done.stdout


def test_steps_to_come_are_projected_and_a_trace_without_a_split_is_not_written(
    tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    arguments = settings(tiny_data, train__steps=12, train__max_views=1, evaluation__every_steps=100, log__trace_step=2)
    done = python(*TRAIN, *arguments, "--out", run)
    assert done.returncode == 0, done.stderr
    projected = re.findall(r"^about ([\d.]+) s for the 8 steps still to come", done.stdout, re.MULTILINE)
    (told,) = re.findall(
        r"^the last 8 steps took ([\d.]+) s, where ([\d.]+) s had been projected", done.stdout, re.MULTILINE
    )
    assert projected == [told[1]]
    assert "warning: step 2 (log.trace_step) ran on one device, there are no tasks to trace" in done.stdout
    assert not list(run.glob("trace-*"))
    assert 0 < float(told[0]) <= json.loads((run / "summary.json").read_text())["train_seconds"] + 0.05


def test_without_data_the_built_in_shapes_are_made_once(tmp_path: Path, python: Launcher) -> None:
    tiny = settings(
        tmp_path,
        data__root="null",
        data__models_per_category=5,
        train__steps=1,
        train__batch_size=2,
        evaluation__views=1,
    )
    first = python(*TRAIN, *tiny, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for category in CATEGORIES.values():
        assert re.search(rf"^{category} +3 +1 +1 +5$", first.stdout, re.MULTILINE)
    assert re.search(r"^all +39 +13 +13 +65$", first.stdout, re.MULTILINE)
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"built-in-\d{8}-\d{6}", run.name)
    shapes = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*") if path.suffix in (".png", ".binvox")
    }
    assert len(shapes) == 65 * 25
    second = python(*TRAIN, *tiny, "--out", tmp_path / "second", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "decoded" in first.stdout
    assert "decoded" not in second.stdout
    assert {path: path.stat().st_mtime_ns for path in shapes} == shapes
    iou = [json.loads((folder / "summary.json").read_text())["iou"] for folder in (run, tmp_path / "second")]
    assert iou[0] == iou[1]
    assert math.isfinite(iou[0])


def test_every_door_has_help(python: Launcher) -> None:
    doors = sorted(path.stem for path in (REPOSITORY / "hvd_r2n2").glob("*.py") if path.stem != "__init__")
    assert {"train", "evaluate", "reconstruct", "prepare", "doctor"} <= set(doors)
    commands = [["-m", f"hvd_r2n2.{door}", "--help"] for door in doors] + [
        ["-m", "hvd_r2n2.prepare", "shapes", "--help"]
    ]
    with ThreadPoolExecutor(2) as executor:
        for command, done in zip(commands, executor.map(lambda words: python(*words), commands), strict=True):
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"usage: python -m {command[1]}"), done.stdout
            assert done.stderr == ""
