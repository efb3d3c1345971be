"""AlexNet by the same commands: trained on a folder of pictures or the built-in shapes, evaluated, resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from hvd_r2n2.config import load_config
from hvd_r2n2.training.checkpoint import read_checkpoint
from tests.conftest import Launcher
from tests.labelled_data import CLASSES, write_labelled_data
from tests.short_runs import TRAIN, largest_difference, weights

STEPS = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_data(tmp_path_factory.mktemp("labelled") / "pictures", 12)


def settings(data: Path | None, **values: object) -> list[str]:
    """Return the arguments of a short run of AlexNet in float64."""
    short = {
        "data__root": data or "null",
        "model__name": "alexnet",
        "model__width": 1 / 16,
        "train__steps": STEPS,
        "train__batch_size": 6,
        "train__dtype": "float64",
        "train__cpu_threads": 1,
        "optimizer__warmup_steps": 2,
        "checkpoint__every_steps": 3,
        "evaluation__every_steps": 3,
        "log__every_steps": 1,
        "log__pictures": 0,
        "log__tensorboard": "false",
    }
    arguments = []
    for name, value in (short | values).items():
        arguments += ["--set", f"{name.replace('__', '.')}={value}"]
    return arguments


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path, python: Launcher) -> Path:
    """A run of one rank."""
    folder = tmp_path_factory.mktemp("classify") / "run"
    done = python(*TRAIN, *settings(pictures, log__pictures=5), "--out", folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^discs +8 +1 +3 +12$", done.stdout, re.MULTILINE)
    assert "alexnet, 3 classes, width 0.0625, two towers, crossing at conv3 fc6 fc7 fc8: " in done.stdout
    assert re.search(
        r"^test part \(9 pictures, .*\): [\d.]+% named right; always bars: 33.3%$", done.stdout, re.MULTILINE
    )
    return folder


def test_run_leaves_what_every_run_leaves(run: Path) -> None:
    config = load_config(run / "config.yaml")
    assert config.data.categories == CLASSES
    assert (config.model.num_classes, config.model.cross) == (3, ("conv3", "fc6", "fc7", "fc8"))
    assert read_checkpoint(run / "checkpoints" / "last").config == config
    summary = json.loads((run / "summary.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert summary["num_test_samples"] == evaluation["num_samples"] == 9
    assert summary["accuracy"] == evaluation["mean_of_samples"]["accuracy"]
    assert summary["constant_accuracy"] == pytest.approx(1 / 3)
    counts = evaluation["confusion"]["counts"]
    assert [sum(row) for row in counts] == [3, 3, 3]
    assert summary["accuracy"] == pytest.approx(sum(counts[number][number] for number in range(3)) / 9)
    best = read_checkpoint((run / "checkpoints" / "best").resolve())
    assert {path.name for path in (run / "pictures").iterdir()} == {
        "validation-step-00000003.png",
        "validation-step-00000006.png",
        f"test-step-{best.step:08d}.png",
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracies = {
        r["step"]: r["validation/accuracy_mean_of_samples"] for r in records if "validation/cross_entropy" in r
    }
    assert best.step == max(accuracies, key=lambda step: (accuracies[step], -step))


@pytest.mark.parametrize("more", [(), ("--set", "train.accumulation=3", "--set", "data.loader_threads=4")])
def test_two_ranks_train_the_weights_of_one(
    more: Sequence[str], run: Path, pictures: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    done = mpirun(2, *TRAIN, *settings(pictures), *more, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stdout + done.stderr
    assert largest_difference(weights(tmp_path / "two", STEPS), weights(run, STEPS)) <= 1e-12
    assert largest_difference(weights(run, STEPS), weights(run, 3)) > 1e-4, "nothing was trained"


def test_resumed_run_ends_bit_equal(pictures: Path, tmp_path: Path, python: Launcher) -> None:
    arguments = settings(pictures, train__dtype="float32", optimizer__schedule="constant")
    whole = python(*TRAIN, *arguments, "--out", tmp_path / "whole")
    first = python(*TRAIN, *arguments, "--set", "train.steps=3", "--out", tmp_path / "halves")
    second = python(*TRAIN, "--resume", "--set", f"train.steps={STEPS}", "--out", tmp_path / "halves")
    for done in (whole, first, second):
        assert done.returncode == 0, done.stderr
    assert "going on from step-00000003" in second.stdout
    for name in ("model.safetensors", "optimizer.safetensors"):
        files = [tmp_path / run / "checkpoints" / "last" / name for run in ("whole", "halves")]
        assert files[0].read_bytes() == files[1].read_bytes()
    arguments += ["--set", "model.num_classes=null"]
    other = python(
        *TRAIN, *arguments, "--resume", "--set", "data.categories=[bars, discs]", "--out", tmp_path / "whole"
    )
    assert other.returncode != 0
    assert re.search(r"model\.num_classes: the run in .* has 3, not 2.*; data\.categories: the run", other.stderr)


def test_evaluate_prints_accuracy_by_class(run: Path, tmp_path: Path, python: Launcher, mpirun: Launcher) -> None:
    during = (run / "evaluation.json").read_bytes()
    done = python("-m", "hvd_r2n2.evaluate", run)
    assert done.returncode == 0, done.stderr
    for name in (*CLASSES, "mean of classes", "mean of pictures"):
        assert re.search(rf"^{name} +\d+ +[01]\.\d{{4}} +\d", done.stdout, re.MULTILINE)
    assert "constant prediction (bars for every picture" in done.stdout
    assert (run / "evaluation.json").read_bytes() == during
    assert (run / "evaluation.csv").read_text().startswith("class,num_samples,accuracy,cross_entropy\nbars,3,")
    out = ("--json", tmp_path / "two.json", "--csv", tmp_path / "two.csv")
    two = mpirun(2, "-m", "hvd_r2n2.evaluate", run, "--batch-size", "2", "--part", "validation", *out)
    one = python("-m", "hvd_r2n2.evaluate", run, "--batch-size", "2", "--part", "validation")
    assert (two.returncode, one.returncode) == (0, 0), two.stderr + one.stderr
    assert (tmp_path / "two.json").read_bytes() == (run / "evaluation-validation.json").read_bytes()


def test_evaluate_takes_other_pictures_of_the_same_classes(run: Path, tmp_path: Path, python: Launcher) -> None:
    other = write_labelled_data(tmp_path / "other", 5, seed=7)
    done = python("-m", "hvd_r2n2.evaluate", run, "--data", other)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "evaluation-other.json").read_text())["num_samples"] == 3
    for path in (other / "discs").iterdir():
        path.unlink()
    lacking = python("-m", "hvd_r2n2.evaluate", run, "--data", other)
    assert lacking.returncode != 0
    assert f"{other}/discs: there are no pictures (.png, .jpg, .jpeg) in this folder" in lacking.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "{run}", "--views", "1", "2"], r"--views: not for a run of alexnet, which names the class"),
        (
            ["evaluate", "{run}", "--threshold", "0.4", "--no-f-score", "--categories", "bars"],
            r"--threshold, --no-f-score, --categories: not for a run of alexnet",
        ),
        (["evaluate", "{run}", "--set", "data.categories=[bars]"], r"--set data\.categories=.*: use --categories"),
        (
            ["reconstruct", "{run}", "{picture}", "--out", "chair"],
            r"a checkpoint of alexnet, which names the class of a picture; only networks of 3D-R2N2 reconstruct",
        ),
    ],
)
def test_what_means_nothing_for_it_is_refused(
    command: Sequence[str], message: str, run: Path, pictures: Path, tmp_path: Path, python: Launcher
) -> None:
    picture = pictures / "bars" / "01.png"  # before a transparent background
    words = [word.format(run=run, picture=picture) for word in command]
    done = python("-m", f"hvd_r2n2.{words[0]}", *words[1:], cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_broken_pictures_stop_training_with_a_line_to_leave_them_out(tmp_path: Path, python: Launcher) -> None:
    data = write_labelled_data(tmp_path / "data", 6)
    (data / "bars" / "01.png").write_bytes((data / "bars" / "01.png").read_bytes()[:90])
    Image.new("L", (20, 400)).save(data / "squares" / "tall.JPG")
    (data / "squares" / "text.png").write_text("no picture")
    arguments = (*TRAIN, *settings(data, train__steps=1), "--out", tmp_path / "run")
    bad = python(*arguments)
    assert bad.returncode != 0
    assert "2 problem(s) in 2 picture(s): 2 × broken picture" in bad.stderr
    (line,) = (line for line in bad.stderr.splitlines() if "skip_models:" in line)
    assert line.strip() == "skip_models: [bars/01.png, squares/text.png]"
    assert line.strip() in (tmp_path / "run" / "data-problems.txt").read_text()
    (tmp_path / "mine.yaml").write_text(f"data:\n{line}\n")
    good = python(*arguments, "--config", tmp_path / "mine.yaml")
    assert good.returncode == 0, good.stderr
    assert re.search(r"^squares .* 7$", good.stdout, re.MULTILINE)


def test_without_data_it_learns_from_the_built_in_shapes(tmp_path: Path, python: Launcher) -> None:
    few = {"data__models_per_category": 5, "data__categories": "[rifle, chair]", "train__dtype": "float32"}
    done = python(*TRAIN, *settings(None, **few, train__steps=1), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for category in ("chair", "rifle"):
        assert re.search(rf"^{category} +72 +24 +24 +120$", done.stdout, re.MULTILINE)
    assert load_config(tmp_path / "run" / "config.yaml").data.categories == ("chair", "rifle")
