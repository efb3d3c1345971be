"""A run that was killed and resumed ends bit-equal to one that was not."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
from pathlib import Path

import pytest

from hvd_r2n2.config import SplitConfig, load_config
from tests.conftest import Launcher
from tests.short_runs import SIGNALLED, TRAIN, settings

STEPS = 8
FILES = ("model.safetensors", "optimizer.safetensors")


def arguments(data: Path) -> list[str]:
    return settings(
        data, train__dtype="float32", train__steps=STEPS, checkpoint__every_steps=2, evaluation__every_steps=4
    )


def last_files(run: Path) -> dict[str, bytes]:
    assert (run / "checkpoints" / "last").resolve().name == f"step-{STEPS:08d}"
    files = {name: (run / "checkpoints" / "last" / name).read_bytes() for name in FILES}
    return files | {"best": (run / "checkpoints" / "best").readlink().name.encode()}


def losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["train/loss"]) for record in records if "train/loss" in record]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = python(*TRAIN, *arguments(tiny_data), "--set", "log.every_steps=1", "--out", run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(
    ("module", "function", "count"),
    [
        ("hvd_r2n2.training.step", "TrainingStep.run", 6),  # between two checkpoints
        ("hvd_r2n2.training.step", "TrainingStep.run", 1),  # before the first
        ("hvd_r2n2.training.checkpoint", "save_file", 3),  # half of the files of the third are there
        ("hvd_r2n2.training.checkpoint", "_sync", 16),  # all written, not renamed yet
        ("hvd_r2n2.training.checkpoint", "point_links", 2),  # renamed, but the links still point at the one before
        ("hvd_r2n2.training.checkpoint", "_point", 3),  # `best` is right, `last` is not
        ("hvd_r2n2.training.checkpoint", "_drop_old", 4),
    ],
)
def test_run_killed_and_resumed_ends_bit_equal(
    module: str, function: str, count: int, uninterrupted: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    more = (*arguments(tiny_data), "--set", "log.every_steps=1", "--out", run)
    killed = python("-c", SIGNALLED, "KILL", module, function, "0", str(count), *more)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (run / "summary.json").exists()
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert last_files(run) == last_files(uninterrupted)
    assert losses(run) == losses(uninterrupted)
    assert not list((run / "checkpoints").glob(".partial*"))


def test_two_ranks_of_which_one_is_killed_end_bit_equal(tiny_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    whole = mpirun(2, *TRAIN, *arguments(tiny_data), "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "run"
    dies = ("-c", SIGNALLED, "KILL", "hvd_r2n2.training.step", "TrainingStep.run", "1", "6")
    killed = mpirun(2, *dies, *arguments(tiny_data), "--out", run)
    assert killed.returncode != 0
    resumed = mpirun(2, *TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step-00000004" in resumed.stdout
    assert last_files(run) == last_files(tmp_path / "whole")


def test_measured_split_goes_on_as_it_was_chosen(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    open_split = ("--set", "split.strategy=pipeline", "--set", "log.every_steps=1")
    done = python(*TRAIN, *arguments(tiny_data), *open_split, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "measuring the layers" in done.stdout
    shutil.copytree(whole, run, symlinks=True)
    for step in (6, 8):  # as if it had been killed before
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step-00000004" in resumed.stdout
    assert re.search(r"^split: pipeline, cut at .*, as chosen before$", resumed.stdout, re.M)
    assert "measuring the layers" not in resumed.stdout
    assert last_files(run) == last_files(whole)
    assert losses(run) == losses(whole)
    assert load_config(run / "config.yaml").split == SplitConfig("pipeline"), "what was asked for"


def test_damaged_newest_checkpoint_is_passed_over(uninterrupted: Path, tmp_path: Path, python: Launcher) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, symlinks=True)
    damaged = run / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    resumed = python(*TRAIN, "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert (
        f"warning: {damaged}: damaged (its SHA-256 is not what manifest.json says); trying the one before"
        in resumed.stdout
    )
    assert "going on from step-00000006" in resumed.stdout
    assert last_files(run) == last_files(uninterrupted)


def test_damaged_best_checkpoint_is_passed_over_by_the_commands_that_use_one(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, symlinks=True)
    damaged = (run / "checkpoints" / "best").resolve() / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    picture = tiny_data / "ShapeNetRendering" / "02691156" / "box-000" / "rendering" / "00.png"
    evaluated = python("-m", "hvd_r2n2.evaluate", run, "--views", "1", "--no-f-score")
    reconstructed = python(
        "-m", "hvd_r2n2.reconstruct", run, picture, "--out", tmp_path / "shape", "--threshold", "0.01"
    )
    for done in (evaluated, reconstructed):
        assert done.returncode == 0, done.stderr
        assert f"warning: {damaged}: damaged (missing, or not of the size" in done.stderr


def test_old_run_is_not_overwritten_without_resume(uninterrupted: Path, tiny_data: Path, python: Launcher) -> None:
    before = last_files(uninterrupted)
    done = python(*TRAIN, *arguments(tiny_data), "--out", uninterrupted)
    assert done.returncode == 1
    assert "holds a run already (go on with --resume, or choose another --out)" in done.stderr
    assert last_files(uninterrupted) == before


def test_resumed_run_may_not_become_another_one(uninterrupted: Path, python: Launcher) -> None:
    done = python(
        *TRAIN, "--resume", "--out", uninterrupted, "--set", "train.batch_size=12", "--set", "model.preset=paper"
    )
    assert done.returncode == 1
    assert "train.batch_size: the run in" in done.stderr
    assert "model.preset: the run in" in done.stderr


def test_resumed_run_says_once_which_settings_have_changed(
    uninterrupted: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, symlinks=True)
    more = ("--set", f"train.steps={STEPS + 1}", "--set", "log.every_steps=3")
    resumed = python(*TRAIN, "--resume", "--out", run, *more)
    assert resumed.returncode == 0, resumed.stderr
    said = re.findall(r"^changed since then: (.*)$", resumed.stdout, re.MULTILINE)
    assert said == [f"train.steps was {STEPS}, is now {STEPS + 1}", "log.every_steps was 1, is now 3"]
    again = python(*TRAIN, "--resume", "--out", run)
    assert again.returncode == 0, again.stderr
    log = (run / "train.log").read_text()
    assert re.findall(r" changed since then: (.*)$", log, re.MULTILINE) == said


def test_resumed_run_may_not_go_on_with_other_data(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("hvd_r2n2_cache"))
    for folder in ("ShapeNetVox32", "ShapeNetRendering"):
        shutil.rmtree(data / folder / "02691156")
    before = last_files(uninterrupted)
    resumed = python(*TRAIN, "--resume", "--out", uninterrupted, "--set", f"data.root={data}")
    assert resumed.returncode == 1
    assert "--resume: the data are not those that" in resumed.stderr
    assert last_files(uninterrupted) == before


def test_second_process_may_not_train_in_the_same_folder(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 on node3\n" + Path("/proc/sys/kernel/random/boot_id").read_text())  # of this machine
        lock.flush()
        done = python(*TRAIN, *arguments(tiny_data), "--out", run)
    assert done.returncode == 1
    assert f"--out {run}: process 7 on node3 is training there; choose another" in done.stderr
    assert [path.name for path in run.iterdir()] == [".lock"]


@pytest.mark.parametrize("in_the_way", ["metrics.jsonl", "tensorboard"])
def test_start_whose_figures_cannot_be_opened_can_be_repeated(
    in_the_way: str, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    command = (*TRAIN, *arguments(tiny_data), "--set", "train.steps=2", "--set", "log.tensorboard=true", "--out", run)
    if in_the_way == "metrics.jsonl":
        (run / in_the_way).mkdir(parents=True)
    else:
        run.mkdir()
        (run / in_the_way).touch()
    failed = python(*command)
    assert failed.returncode == 1
    assert f"hvd_r2n2.train: error: {run / in_the_way}" in failed.stderr
    assert not (run / "config.yaml").exists()
    (run / in_the_way).rename(tmp_path / "gone")
    repeated = python(*command)
    assert repeated.returncode == 0, repeated.stderr
    assert load_config(run / "config.yaml").train.steps == 2


def test_resumption_whose_figures_cannot_be_opened_leaves_the_settings(
    uninterrupted: Path, tmp_path: Path, python: Launcher
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run, symlinks=True)
    before = (run / "config.yaml").read_bytes()
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    failed = python(*TRAIN, "--resume", "--set", "log.every_steps=2", "--out", run)
    assert failed.returncode == 1
    assert f"hvd_r2n2.train: error: {run}/metrics.jsonl: Is a directory" in failed.stderr
    assert (run / "config.yaml").read_bytes() == before
    assert not list(run.glob(".config.yaml*"))


def test_resume_of_an_empty_folder_starts_anew(tiny_data: Path, tmp_path: Path, python: Launcher) -> None:
    few = ("--set", "train.steps=1")
    done = python(*TRAIN, *arguments(tiny_data), *few, "--resume", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"no checkpoint in {tmp_path / 'run'}: starting at step 0" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "step-00000001" / "manifest.json").exists()
