"""What a user can get wrong: one message that says what and what would be right, and nothing written before is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hvd_r2n2.training.checkpoint import read_checkpoint
from tests.conftest import Launcher
from tests.doors import forking
from tests.mounts import mount
from tests.short_runs import TRAIN, settings
from tests.tiny_data import write_tiny_data

SHORT = ("--set", "train.steps=2", "--set", "train.dtype=float32")
OLD = "old"  # a run that ended well, which bad commands must not harm

# What a command does wrong, all in one folder: its arguments, and what its message must say.
BAD: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "data root that is not there": (
        ["--set", "data.root=nowhere"],
        ["nowhere: no folder ShapeNetRendering and no folder ShapeNetVox32", "side by side"],
    ),
    "data root that is empty": (
        ["--set", "data.root=empty"],
        ["empty: no folder ShapeNetRendering and no folder ShapeNetVox32", "side by side"],
    ),
    "data root without models": (["--set", "data.root=bare"], ["bare: there are no models of 02691156 aeroplane"]),
    "key that nobody knows": (["--set", "train.stepz=3"], ["unknown key train.stepz", "did you mean train.steps?"]),
    "key in the wrong section": (
        ["--set", "train.learning_rate=1"],
        ["unknown key train.learning_rate", "did you mean optimizer.learning_rate?"],
    ),
    "value of a wrong type": (
        ["--set", "train.steps=many"],
        ["train.steps: a whole number is needed, 'many' is a text"],
    ),
    "value that is not possible": (
        ["--set", "train.steps=0"],
        [r"train.steps: 0 is not possible \(1 to 1,000,000,000\)"],
    ),
    "setting that would be ignored": (
        ["--set", "optimizer.momentum=0.5"],
        ["optimizer.momentum: would be ignored, it only goes with optimizer.name=sgd"],
    ),
    "batch that its micro-batches do not divide": (
        ["--set", "train.accumulation=4"],
        ["train.accumulation: 4 does not divide train.batch_size=6"],
    ),
    "settings that are not there": (
        ["--config", "absent.yaml"],
        ["absent.yaml: No such file or directory", "such as configs/demo.yaml"],
    ),
    "settings that are a folder": (["--config", "empty"], ["empty: Is a directory"]),
    "settings that are no YAML": (["--config", "broken.yaml"], ["broken.yaml: not valid YAML", "line 2"]),
    "settings that are no text": (["--config", "binary.yaml"], ["binary.yaml: not a text file"]),
    "settings that are a list": (["--config", "list.yaml"], ["list.yaml: a mapping of sections", "this is a list"]),
    "weights that are not there": (
        ["--set", "model.weights=absent.safetensors"],
        [r"model.weights: /.*/absent.safetensors: No such file", "a checkpoint's model.safetensors"],
    ),
    "weights that are none": (
        ["--set", "model.weights=notes.txt"],
        [r"model.weights: /.*/notes.txt: not a safetensors file", "a checkpoint's model.safetensors"],
    ),
    "weights of another network": (
        ["--set", f"model.weights={OLD}/checkpoints/last/model.safetensors", "--set", "model.width=0.0625"],
        [f"model.weights: /.*/{OLD}/.*: weights of another network: width '0.03125'", r"this network: '0.0625'"],
    ),
    "original weights for another network": (
        ["--set", "model.weights=notes.npy"],
        [r"model.weights: /.*/notes.npy: .* are for res3d-gru-3, .* this network is 3d-gru-1"],
    ),
    "resuming nothing in particular": (["--resume"], ["--resume: needs --out DIR"]),
    "resuming with a file": (["--resume", "--out", "notes.txt"], ["notes.txt: .*it is a file", "choose another"]),
    "run directory that is a file": (["--out", "notes.txt"], ["--out notes.txt: .*it is a file", "choose another"]),
    "run directory below a file": (["--out", "notes.txt/run"], ["--out notes.txt/run: .*Not a directory"]),
    "run directory of an old run": (["--out", "again"], ["again: holds a run already", "--resume"]),
    "resuming with another network": (
        ["--resume", "--out", "wider", "--set", "model.width=0.0625"],
        ["model.width: the run in wider has 0.03125, not 0.0625", "use its value, or start anew"],
    ),
    "resuming with another measure of the best": (
        ["--resume", "--out", "measured", "--set", "evaluation.views=3", "--set", "evaluation.threshold=0.6"],
        ["evaluation.views: the run in measured has 2, not 3; evaluation.threshold: .* has 0.4, not 0.6"],
    ),
    "resuming to an earlier step, with another baseline": (
        ["--resume", "--out", "earlier", "--set", "train.steps=1", "--set", "log.baseline=measure"],
        [r"train.steps: 1, but the run in earlier has done 2 already \(use 2 or more\)"],
    ),
    "baseline for the run directory of an old run": (
        ["--out", "baseline", "--set", "log.baseline=measure"],
        ["baseline: holds a run already", "--resume"],
    ),
    "trace of a step that does not come": (
        ["--set", "log.trace_step=3"],
        [r"log.trace_step: 3 is after the last step \(use at most train.steps, 2\)"],
    ),
    "home of nobody": (
        ["--set", "data.root=~nobody-here/data"],
        ["data.root: ~nobody-here/data: no user of that name here", "write the whole path"],
    ),
    "resuming without the data": (
        ["--resume", "--out", "elsewhere", "--set", "data.root=nowhere"],
        ["nowhere: no folder ShapeNetRendering"],
    ),
    "resuming from something else": (
        ["--resume", "--out", "foreign"],
        [r"foreign/checkpoints: none of the 1 checkpoints is whole; start anew with another --out"],
    ),
    "resuming from half a file": (
        ["--resume", "--out", "cut"],
        [r"cut/checkpoints: none of the 1 checkpoints is whole; start anew with another --out"],
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, python: Launcher) -> Path:
    """A folder with all that the commands of BAD get wrong."""
    place = tmp_path_factory.mktemp("bad-input")
    (place / "empty").mkdir()
    for name in ("ShapeNetRendering", "ShapeNetVox32"):
        (place / "bare" / name).mkdir(parents=True)
    (place / "broken.yaml").write_text("train: [\n")
    (place / "binary.yaml").write_bytes(bytes(range(128, 256)))
    (place / "list.yaml").write_text("- train\n- data\n")
    (place / "notes.txt").write_text("not what you are looking for\n")
    (place / "notes.npy").write_text("not what you are looking for\n")
    done = python(*TRAIN, *settings(tiny_data), *SHORT, "--out", OLD, cwd=place)
    assert done.returncode == 0, done.stderr
    for name in ("again", "wider", "measured", "earlier", "baseline", "elsewhere", "foreign", "cut"):
        shutil.copytree(place / OLD, place / name, symlinks=True)
    (place / "earlier" / "baseline.json").write_text("{}")
    with (place / "elsewhere" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "train/loss": 0.5}\n')  # of a step after the last checkpoint
    for path in (place / "foreign" / "checkpoints" / "last").resolve().iterdir():
        path.unlink()
    (place / "foreign" / "checkpoints" / "step-00000002" / "weights.pt").write_bytes(b"\x80\x02}q\x00.")
    weights = place / "cut" / "checkpoints" / "step-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return place


def contents(*folders: Path) -> dict[Path, bytes]:
    """Return every file but locks, which say who held them last."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def outcomes(place: Path, tiny_data: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """What all commands of BAD said; a failure must leave what there was."""
    before = contents(place)

    outcomes = {}
    with forking("hvd_r2n2.train") as train:
        for what, (words, _) in BAD.items():
            new = [] if {"--out", "--resume"} & set(words) else ["--out", "new/" + what.replace(" ", "-")]
            data = [] if "--resume" in words else [*settings(tiny_data), *SHORT]
            outcomes[what] = train(*data, *words, *new, cwd=place)
    after = contents(place)
    for path, content in before.items():
        kept = after[path][: len(content)] if path.name == "train.log" else after[path]
        assert kept == content, f"{path} has changed"
    return outcomes


@pytest.mark.parametrize("what", BAD)
def test_mistake_gets_one_clear_message(what: str, outcomes: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = outcomes[what]
    assert_clear(done, *BAD[what][1])
    assert done.stderr.count("error") == 1


def assert_clear(done: subprocess.CompletedProcess[str], *patterns: str) -> None:
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Errno" not in done.stderr
    message = done.stderr[done.stderr.index("hvd_r2n2.train: error: ") :]
    for pattern in patterns:
        assert re.search(pattern, message), message


def test_passed_over_checkpoints_are_named(outcomes: dict[str, subprocess.CompletedProcess[str]]) -> None:
    step = "checkpoints/step-00000002"
    foreign, cut = outcomes["resuming from something else"].stdout, outcomes["resuming from half a file"].stdout
    assert f"warning: foreign/{step} is not a checkpoint: manifest.json cannot be read" in foreign
    assert f"warning: cut/{step}/model.safetensors: damaged (missing, or not of the size" in cut


def test_failed_start_can_be_repeated_in_its_folder(
    outcomes: dict[str, subprocess.CompletedProcess[str]], place: Path, tiny_data: Path, python: Launcher
) -> None:
    folder = place / "new" / "data-root-that-is-not-there"
    assert f" stopped by ValueError: {place}/nowhere: no folder" in (folder / "train.log").read_text()
    done = python(*TRAIN, *settings(tiny_data), *SHORT, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(folder / "checkpoints" / "last").step == 2


def test_all_broken_data_are_listed_and_the_pasted_line_trains(tmp_path: Path, python: Launcher) -> None:
    data = write_tiny_data(tmp_path / "data")
    pictures = data / "ShapeNetRendering"
    cut = pictures / "02691156" / "box-000" / "rendering" / "03.png"
    cut.write_bytes(cut.read_bytes()[:200])
    voxels = data / "ShapeNetVox32" / "02958343" / "box-001" / "model.binvox"
    voxels.write_bytes(voxels.read_bytes()[:120])
    wrong = pictures / "03001627" / "box-002" / "rendering" / "05.png"
    Image.new("RGBA", (100, 80)).save(wrong)
    (pictures / "03001627" / "box-003" / "rendering" / "07.png").unlink()
    arguments = (*TRAIN, *settings(data), *SHORT, "--out", tmp_path / "run")
    bad = python(*arguments)
    assert_clear(
        bad,
        r"4 problem\(s\) in 4 model\(s\)",
        f"{cut}: the PNG is truncated after 200 bytes",
        f"{voxels}: binvox data end too early: .* of 32768 voxels",
        f"{wrong}: the picture is 100×80, not 137×137",
        r"box-003/rendering: 1 of the 24 pictures are missing \(07.png\)",
    )
    (line,) = (line for line in bad.stderr.splitlines() if "skip_models:" in line)
    (tmp_path / "mine.yaml").write_text(f"data:\n{line}\n")
    assert len(yaml.safe_load((tmp_path / "mine.yaml").read_text())["data"]["skip_models"]) == 4
    good = python(*arguments, "--config", tmp_path / "mine.yaml")
    assert good.returncode == 0, good.stderr
    assert re.search(r"^03001627 chair .* 4$", good.stdout, re.MULTILINE)
    assert "4 models are left out by data.skip_models" in good.stdout


def test_batch_must_divide_over_the_ranks(tiny_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    done = mpirun(2, *TRAIN, *settings(tiny_data, train__batch_size=5), "--out", tmp_path / "run")
    assert_clear(done, r"train.batch_size: 5 cannot be divided evenly over 2 rank\(s\) .*\(use 4 or 6\)")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write to: by its mode, or for root, whom modes do not stop, by its mount."""
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o555)
    if os.geteuid():
        yield folder
        return
    mount("-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_folder_that_cannot_be_written_is_named(
    sealed: Path, tiny_data: Path, tmp_path: Path, python: Launcher
) -> None:
    arguments = (*TRAIN, *settings(tiny_data), *SHORT)
    out = python(*arguments, "--out", sealed / "run")
    assert_clear(out, f"--out {sealed}/run: no run directory can be made there .*; choose another")
    cache = python(*arguments, "--set", f"data.cache_dir={sealed}/cache", "--out", tmp_path / "run")
    assert_clear(cache, f"cannot write the decoded cache to {sealed}/cache/.*; set data.cache_dir to a folder")
