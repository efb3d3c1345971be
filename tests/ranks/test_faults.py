"""When one of several ranks goes wrong, the job ends at once, and the reason is the last thing that it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.loader import training_batches
from hvd_r2n2.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from hvd_r2n2.training.setup import build_model
from tests.conftest import REPOSITORY, Launcher
from tests.short_runs import TRAIN, settings
from tests.tiny_data import write_tiny_data
from tests.without_horovod import environment_without_horovod

# mpirun marks each line of a rank with [1,RANK]<stream>:, and its own notices not.
TAGGED = {"OMPI_MCA_orte_tag_output": "1"}
LIMIT_S = 120

# The command of the first argument, but rank 1 runs the code in the second one before it.
FAULTY = """
import importlib, os, sys
door, fault = sys.argv.pop(1), sys.argv.pop(1)
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    exec(fault)
from hvd_r2n2.comm import run_door
run_door(door, importlib.import_module(door).main)
"""

RAISES = """
from hvd_r2n2.training.step import TrainingStep
run = TrainingStep.run
def failing(self, batch, *more):
    if batch.step == 2:
        raise {error}
    return run(self, batch, *more)
TrainingStep.run = failing
"""

POISONED = """
from hvd_r2n2.training.task_reconstruction import ReconstructionTask
prepare = ReconstructionTask.prepare
def poisoned(self, batch, *more):
    inputs = prepare(self, batch, *more)
    if batch.step == 2:
        inputs["images"][:, 1] = float("nan")
    return inputs
ReconstructionTask.prepare = poisoned
"""

SHIFTED = """
import torch
from hvd_r2n2.training.step import TrainingStep
run = TrainingStep.run
def shifting(self, batch, *more):
    result = run(self, batch, *more)
    if batch.step == 2:
        with torch.no_grad():
            self._engine._leaves()[0].view(-1)[0] += 1e-6
    return result
TrainingStep.run = shifting
"""


def arguments(data: Path | str) -> list[str]:
    return settings(data, train__dtype="float32", train__check_every_steps=2, checkpoint__every_steps=2, train__steps=6)


def with_fault(
    mpirun: Launcher, fault: str, *words: str | Path, door: str = "hvd_r2n2.train", **more: Path
) -> subprocess.CompletedProcess[str]:
    """Run two ranks of which rank 1 is faulty, within the time limit."""
    done: subprocess.CompletedProcess[str] = mpirun(
        2, "-c", FAULTY, door, fault, *words, timeout_s=LIMIT_S, environment=TAGGED, **more
    )
    return done


def faulty(mpirun: Launcher, fault: str, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run two ranks of which rank 1 is faulty, and must end the job."""
    done = with_fault(mpirun, fault, *words, **more)
    assert done.returncode != 0
    return done


def lines_of_ranks(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what ranks wrote to their stderr, in order, without mpirun's notices and marks."""
    marked = (re.match(r"\[\d+,\d+\]<stderr>:(.*)", line) for line in done.stderr.splitlines())
    return [match[1] for match in marked if match and match[1].strip()]


def last_step(run: Path) -> int:
    return read_checkpoint((run / "checkpoints" / "last").resolve()).step


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_mistake_in_the_settings_ends_all_ranks(
    launcher: str, tiny_data: Path, tmp_path: Path, mpirun: Launcher, horovodrun: Launcher
) -> None:
    start = mpirun if launcher == "mpirun" else horovodrun
    words = (*arguments(tiny_data), "--set", "train.stepz=3", "--out", tmp_path / "run")
    done = start(2, *TRAIN, *words, timeout_s=LIMIT_S)
    assert done.returncode != 0
    assert (
        "hvd_r2n2.train: error: --set: unknown key train.stepz (did you mean train.steps?)" in done.stdout + done.stderr
    )
    assert "hvd_r2n2/" not in done.stdout + done.stderr, "a traceback through the package"
    assert not (tmp_path / "run").exists()


def test_mistake_on_one_rank_alone_ends_the_others_too(tiny_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    fault = "sys.argv += ['--set', 'train.stepz=3']"
    done = faulty(mpirun, fault, *arguments(tiny_data), "--out", tmp_path / "run")
    message = "rank 1: hvd_r2n2.train: error: --set: unknown key train.stepz (did you mean train.steps?)"
    assert lines_of_ranks(done) == [message]


def test_several_ranks_without_horovod_are_refused(tiny_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    words = (*arguments(tiny_data), "--out", tmp_path / "run")
    done = mpirun(2, *TRAIN, *words, timeout_s=LIMIT_S, environment=environment_without_horovod(tmp_path / "site"))
    assert done.returncode != 0
    assert "error: mpirun started 2 ranks, but Horovod is not installed in " in done.stderr
    assert "run scripts/setup.sh, or start one process alone" in done.stderr


# The same path on another node, so to say.
OPENS_OTHER = """
import pathlib
import hvd_r2n2.training.task_reconstruction as task_reconstruction
original = task_reconstruction.open_dataset
task_reconstruction.open_dataset = lambda config, root, *more, **named: original(
    config, pathlib.Path({root!r}), *more, **named
)
"""


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with a data set `data` each, of the same names and other shapes."""
    place = tmp_path_factory.mktemp("other-data")
    for seed in (0, 1):
        write_tiny_data(place / str(seed) / "data", seed=seed)
    return place


def test_rank_whose_files_are_others_is_refused(other_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    fault = OPENS_OTHER.format(root=str(other_data / "1" / "data"))
    done = faulty(mpirun, fault, *arguments(other_data / "0" / "data"), "--out", tmp_path / "run")
    message = (
        r"error: the data is not the same on all ranks \(rank 0: (\w{16}), rank 1: (\w{16})\); every rank must see"
    )
    found = re.search(message, lines_of_ranks(done)[-1])
    assert found
    assert found[1] != found[2]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_rank_that_would_evaluate_other_files_is_refused(other_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    config = load_config(None, arguments(other_data / "0" / "data")[1::2])
    model = build_model(config.model, config.train.seed)
    write_checkpoint(tmp_path / "run" / "checkpoints", model, {}, TrainingState(1, 6, 1.0, best_step=1), config)
    fault = OPENS_OTHER.format(root=str(other_data / "1" / "data"))
    done = faulty(mpirun, fault, tmp_path / "run", "--views", "1", "--no-f-score", door="hvd_r2n2.evaluate")
    message = (
        r"hvd_r2n2.evaluate: error: the data is not the same on all ranks \(rank 0: \w{16}, rank 1: \w{16}\); every"
    )
    assert re.search(message, lines_of_ranks(done)[-1])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


CHOOSES = """
from hvd_r2n2.training import checkpoint
def choosing(path, warn):
    raise ValueError("rank 1 has chosen a checkpoint on its own")
checkpoint.open_checkpoint = choosing
"""


def test_rank_0_alone_chooses_the_checkpoint_that_is_evaluated(
    tiny_data: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    trained = with_fault(mpirun, CHOOSES, *arguments(tiny_data), "--set", "train.steps=2", "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    quick = ("--views", "2", "--no-f-score", "--json", tmp_path / "again.json", "--csv", tmp_path / "again.csv")
    evaluated = with_fault(mpirun, CHOOSES, tmp_path / "run", *quick, door="hvd_r2n2.evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "run" / "evaluation.json").read_bytes()


def test_rank_with_another_data_root_is_refused(other_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    fault = f"sys.argv += ['--set', 'data.root={other_data / '1' / 'data'}']"
    done = faulty(mpirun, fault, *arguments(other_data / "0" / "data"), "--out", tmp_path / "run")
    (message,) = {re.sub(r"^rank \d: ", "", line) for line in lines_of_ranks(done)}
    assert re.search(
        r"the resolved config is not the same on all ranks \(rank 0: \w+, rank 1: \w+\); the data is", message
    )


def test_rank_with_other_code_is_refused(tiny_data: Path, tmp_path: Path, mpirun: Launcher) -> None:
    shutil.copytree(REPOSITORY / "hvd_r2n2", tmp_path / "other" / "hvd_r2n2")
    with (tmp_path / "other" / "hvd_r2n2" / "models" / "losses.py").open("a") as file:
        file.write("# another version\n")
    fault = f"sys.path.insert(0, {str(tmp_path / 'other')!r})"
    done = faulty(mpirun, fault, *arguments(tiny_data), "--out", tmp_path / "run")
    message = r"error: the code of hvd_r2n2 is not the same on all ranks \(rank 0: \w{16}, rank 1: \w{16}\); every rank"
    assert re.search(message, lines_of_ranks(done)[-1])
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (
            "OSError(5, 'Input/output error', '/data/chair.cache')",
            "rank 1: hvd_r2n2.train: error: /data/chair.cache: Input/output error",
            "rank 1: hvd_r2n2.train: error: /data/chair.cache: Input/output error",
        ),
        (
            "ZeroDivisionError('mean of nothing')",
            "rank 1: hvd_r2n2.train: internal error",
            "ZeroDivisionError: mean of nothing",
        ),
    ],
)
def test_rank_that_fails_in_the_middle_has_the_last_word(
    error: str, first: str, last: str, tiny_data: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    done = faulty(mpirun, RAISES.format(error=error), *arguments(tiny_data), "--out", tmp_path / "run")
    lines = lines_of_ranks(done)
    assert (lines[0], lines[-1]) == (first, last)
    assert not [line for line in lines if line.startswith("rank 0")]
    assert last_step(tmp_path / "run") == 2


def test_loss_that_is_not_finite_stops_all_and_names_the_sample(
    tiny_data: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    words = arguments(tiny_data)
    done = faulty(mpirun, POISONED, *words, "--out", tmp_path / "run")
    config = load_config(None, words[1::2])
    dataset = open_dataset(config.data, tiny_data, 32, lambda text: None)
    with training_batches(
        dataset,
        indices=dataset.train,
        batch_size=6,
        rank=1,
        size=2,
        seed=config.train.seed,
        min_views=1,
        max_views=2,
        start_step=2,
        end_step=3,
        config=config.data,
    ) as batches:
        sample = next(batches).samples[1]
    message = (
        "hvd_r2n2.train: error: step 3: the loss is nan and the gradient's norm nan. "
        f"Not finite at rank 1: {sample}. Training stops before the weights change; the last checkpoint is good. "
    )
    lines = lines_of_ranks(done)
    assert lines
    assert all(re.match(rf"rank [01]: {re.escape(message)}", line) for line in lines)
    assert last_step(tmp_path / "run") == 2


@pytest.mark.parametrize("strategy", ["none", "pipeline", "kernel"])
def test_parameter_that_changed_on_one_rank_is_found(
    strategy: str, tiny_data: Path, tmp_path: Path, mpirun: Launcher
) -> None:
    more = ["split.cut=[decoder.block7]"] if strategy == "pipeline" else ["model.width=0.0625"]
    split = [word for setting in (f"split.strategy={strategy}", *more) for word in ("--set", setting)]
    done = faulty(mpirun, SHIFTED, *arguments(tiny_data), *split, "--out", tmp_path / "run")
    lines = lines_of_ranks(done)
    message = "hvd_r2n2.train: error: step 4: parameters: rank(s) 1 differ from the rest; training stops"
    assert lines
    assert set(lines) <= {f"rank 0: {message}", f"rank 1: {message}"}, done.stderr
    assert last_step(tmp_path / "run") == 2, "the parameters of step 4 are not to be kept"
