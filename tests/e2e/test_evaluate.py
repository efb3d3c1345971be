import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hvd_r2n2.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    SplitConfig,
    TrainConfig,
)
from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.evaluate import main
from hvd_r2n2.models import create_model
from hvd_r2n2.training import task_reconstruction
from hvd_r2n2.training.checkpoint import TrainingState, find_checkpoint, read_checkpoint, write_checkpoint
from tests.conftest import run_command
from tests.tiny_data import write_tiny_data

CHAIR = "03001627"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with one checkpoint, of a small network with random weights, on tiny data."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_data(folder / "data", 7)  # each category: 4 train, 1 validation, 2 test
    config = Config(
        model=ModelConfig(name="3d-gru-1", width=1 / 16),
        data=DataConfig(root=str(folder / "data")),
        train=TrainConfig(device="cpu"),
        evaluation=EvaluationConfig(batch_size=2),
        checkpoint=CheckpointConfig(),
    )
    model = create_model("3d-gru-1", width=1 / 16, seed=3)
    write_checkpoint(folder / "run" / "checkpoints", model, {}, TrainingState(12, 48, 1.0, best_step=12), config)
    return folder / "run"


def _expected_iou(run: Path, names: list[str], num_views: int, threshold: float) -> list[float]:
    """Compute IoU of chairs from the files, without the package's data or evaluation code."""
    model = create_model("3d-gru-1", width=1 / 16, seed=3).eval()
    ious = []
    for name in names:
        folder = run.parent / "data" / "ShapeNetRendering" / CHAIR / name / "rendering"
        views = []
        for view in range(num_views):
            picture = np.asarray(Image.open(folder / f"{view:02d}.png"))
            colours = np.where(picture[..., 3:] == 0, 240, picture[..., :3])[5:132, 5:132]
            views.append(torch.from_numpy(colours.transpose(2, 0, 1) / 255).float())
        with torch.no_grad():
            logits = model(torch.stack(views)[:, None])[0].double().numpy()
        predicted = 1 / (1 + np.exp(logits[0] - logits[1])) > threshold
        truth = read_binvox(run.parent / "data" / "ShapeNetVox32" / CHAIR / name / "model.binvox").occupancy_XYZ
        ious.append(float((predicted & truth).sum() / (predicted | truth).sum()))
    return ious


def test_the_command_writes_what_it_measured(run: Path, python: Callable[..., Any]) -> None:
    done = python("-m", "hvd_r2n2.evaluate", run, "--views", "1", "3")
    assert done.returncode == 0, done.stderr
    content = json.loads((run / "evaluation.json").read_text())
    assert (content["step"], content["split"], content["part"], content["num_samples"]) == (12, "r2n2", "test", 6)
    assert [result["num_views"] for result in content["results"]] == [1, 3]
    for result in content["results"]:
        assert result["threshold_source"].startswith("chosen on the validation part")
        chair = result["categories"]["chair"]
        for threshold in (0.4, 0.5):
            expected = np.mean(_expected_iou(run, ["box-005", "box-006"], result["num_views"], threshold))
            # A voxel whose probability is next to the threshold may fall on either side in float32.
            assert chair["iou_at"][f"{threshold:.2f}"] == pytest.approx(expected, abs=2e-3)
        assert chair["iou"] == chair["iou_at"][f"{result['threshold']:.2f}"]
        assert 0 <= result["mean_of_samples"]["f_score_1_percent"] <= 1
    rows = list(csv.DictReader((run / "evaluation.csv").open()))
    names = ["aeroplane", "car", "chair", "mean of categories", "mean of samples"]
    assert [row["category"] for row in rows] == names * 2
    assert f"{content['results'][1]['mean_of_samples']['iou']:.4f}" in done.stdout
    assert f"{content['constant_prediction']['iou_mean_of_samples']:.4f}" in done.stdout
    assert "test part of split r2n2" in done.stdout
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "evaluation.csv", "evaluation.json"]


@pytest.mark.parametrize(("output", "reason"), [("> /dev/full", "No space left on device"), ("| true", "Broken pipe")])
def test_files_are_written_where_standard_output_cannot_be(output: str, reason: str, run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "found.json", tmp_path / "found.csv"]
    shell = ("bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "bash")
    command = ("-m", "hvd_r2n2.evaluate", run, "--views", "1", "--no-f-score", "--json", files[0], "--csv", files[1])
    done = run_command([*shell, sys.executable, *command])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"hvd_r2n2.evaluate: error: standard output: {reason}"
    assert json.loads(files[0].read_text())["step"] == 12
    assert len(files[1].read_text().splitlines()) == 6


def test_two_ranks_write_the_same_files_as_one(run: Path, tmp_path: Path, mpirun: Callable[..., Any]) -> None:
    common = [run, "--views", "2", "--no-f-score"]
    for name, threads in (("alone", ()), ("threads", ("--set", "train.cpu_threads=3"))):
        where = ["--json", tmp_path / f"{name}.json", "--csv", tmp_path / f"{name}.csv"]
        main([str(word) for word in (*common, *where, *threads)])
    where = ["--json", tmp_path / "ranks.json", "--csv", tmp_path / "ranks.csv"]
    done = mpirun(2, "-m", "hvd_r2n2.evaluate", *common, *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("IoU by number of views") == 1
    for kind in ("json", "csv"):
        written = {(tmp_path / f"{name}.{kind}").read_text() for name in ("alone", "threads", "ranks")}
        assert len(written) == 1


def test_a_fault_ends_every_rank_with_its_message(run: Path, mpirun: Callable[..., Any]) -> None:
    done = mpirun(2, "-m", "hvd_r2n2.evaluate", run, "--views", "25")
    assert done.returncode != 0
    assert "hvd_r2n2.evaluate: error: 25 views cannot be evaluated: each sample has 24 pictures" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--threshold", "0.3"], "threshold-0.3"),
        (["--dtype", "float64"], "float64"),
        (["--part", "validation"], "validation"),
        (["--set", "data.validation_fraction=0.3"], "validation-0.3"),
        (["--set", "data.skip_models=[03001627/box-006]"], "without-1"),
        (["--data", "{run}/../data", "--device", "cpu", "--batch-size", "3", "--set", "train.cpu_threads=1"], None),
    ],
)
def test_another_measurement_than_the_run_s_gets_a_name_of_its_own(
    run: Path, arguments: list[str], name: str | None
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("evaluation*")}
    main([str(run), "--views", "1", "--no-f-score", *(argument.format(run=run) for argument in arguments)])
    after = {path: path.stat().st_mtime_ns for path in run.glob("evaluation*")}
    stem = f"evaluation-{name}" if name else "evaluation"
    written = {run / f"{stem}.{kind}" for kind in ("json", "csv")}
    assert {path for path in after if before.get(path) != after[path]} == written
    for path in written:
        path.unlink()


def test_a_run_of_some_categories_is_evaluated_on_all(run: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(find_checkpoint(run))
    config = replace(checkpoint.config, data=replace(checkpoint.config.data, categories=("chair",)))
    model = create_model("3d-gru-1", width=1 / 16, seed=3)
    write_checkpoint(tmp_path / "checkpoints", model, {}, checkpoint.state, config)
    for words, name in (([], "evaluation"), (["--categories", "all"], "evaluation-all")):
        main([str(tmp_path), "--views", "1", "--no-f-score", *words])
        result = json.loads((tmp_path / f"{name}.json").read_text())["results"][0]
        assert len(result["categories"]) == (3 if words else 1)


def test_data_that_changed_since_the_training_are_refused(run: Path, tmp_path: Path) -> None:
    data, folder = write_tiny_data(tmp_path / "data", 7), tmp_path / "run"
    config = read_checkpoint(find_checkpoint(run)).config
    config = replace(config, data=replace(config.data, root=str(data)))
    digest = open_dataset(config.data, data, 32, lambda text: None).content_digest
    state = TrainingState(12, 48, 1.0, digest, best_step=12)
    write_checkpoint(folder / "checkpoints", create_model("3d-gru-1", width=1 / 16, seed=3), {}, state, config)
    command = [str(folder), "--views", "1", "--no-f-score"]
    main(command)
    before = (folder / "evaluation.json").read_bytes()
    shutil.copytree(data, tmp_path / "copy")
    for kind in ("ShapeNetVox32", "ShapeNetRendering"):
        for model in ("box-005", "box-006"):  # box-004 then is in the test part
            shutil.rmtree(data / kind / CHAIR / model)
    for words in ([], ["--data", str(data)], ["--part", "validation"]):
        with pytest.raises(ValueError, match=rf"{data}: the data are not those that .* was trained on .* with --data"):
            main([*command, *words])
    assert (folder / "evaluation.json").read_bytes() == before
    for words in (
        ["--data", str(tmp_path / "copy")],
        ["--categories", "car"],
        ["--set", f"data.skip_models=[{CHAIR}/box-000]"],
        ["--set", "data.validation_fraction=0.3"],
    ):
        main([*command, *words])


def test_a_checkpoint_that_is_not_the_run_s_best_leaves_the_run_s_results_alone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    shutil.copytree(run / "checkpoints" / "step-00000012", copy / "checkpoints" / "step-00000010")
    quick = ["--views", "1", "--no-f-score"]
    main([str(copy / "checkpoints" / "step-00000010"), *quick])
    assert not (copy / "evaluation.json").exists()
    assert (copy / "evaluation-step-00000012.json").exists()  # as the copy still calls itself
    main([str(copy / "checkpoints" / "best"), *quick])
    assert (copy / "evaluation.json").exists()
    (copy / "checkpoints" / "best").unlink()
    (copy / "checkpoints" / "last").unlink()
    main([str(copy / "checkpoints" / "step-00000012"), *quick])


def test_a_checkpoint_that_training_replaces_while_the_data_are_opened_is_evaluated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)

    def open_slowly(*arguments: Any, **options: Any) -> Dataset:
        shutil.rmtree(copy / "checkpoints" / "step-00000012")
        return open_dataset(*arguments, **options)

    monkeypatch.setattr(task_reconstruction, "open_dataset", open_slowly)
    main([str(copy), "--views", "1", "--no-f-score", "--json", str(tmp_path / "found.json")])
    assert json.loads((tmp_path / "found.json").read_text())["step"] == 12


def test_the_device_of_the_training_does_not_bind(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_checkpoint(find_checkpoint(run)).config
    model = create_model("3d-gru-1", width=1 / 16, seed=3)
    state = TrainingState(12, 48, 1.0, best_step=12)
    runs = {
        "gpu": replace(config, train=TrainConfig(device="cuda", cuda_graphs=True, tf32=False)),
        "gpus": replace(
            config,
            train=TrainConfig(device="cuda"),
            split=SplitConfig(strategy="pipeline", devices=("cuda:0", "cuda:1")),
        ),
        "cpu": replace(config, train=TrainConfig(device="cpu", cpu_threads=1)),
    }
    for name, own in runs.items():
        write_checkpoint(tmp_path / name / "checkpoints", model, {}, state, own)
    main([str(tmp_path / "gpus"), "--views", "1", "--no-f-score", "--device", "cpu"])
    main([str(tmp_path / "gpu"), "--views", "1", "--no-f-score", "--device", "cpu"])
    said = capsys.readouterr().err
    assert f"on the data in {run.parent / 'data'}" in said
    assert "rank 0 on" in said
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: that it is missing cannot be tested")
    main([str(tmp_path / "gpu"), "--views", "1", "--no-f-score"])
    with pytest.raises(ValueError, match="sees no GPU"):
        main([str(tmp_path / "cpu"), "--device", "cuda"])


def test_what_broken_data_ask_for_is_offered(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "broken"
    write_tiny_data(other, 7)
    (other / "ShapeNetVox32" / CHAIR / "box-006" / "model.binvox").write_bytes(b"#binvox 1\n")
    arguments = [str(run), "--data", str(other), "--views", "1", "--no-f-score", "--json", str(tmp_path / "x.json")]
    arguments += ["--csv", str(tmp_path / "x.csv"), "--set", f"data.cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(ValueError, match=rf"skip_models: \[{CHAIR}/box-006\]"):
        main(arguments)
    main([*arguments, "--set", f"data.skip_models=[{CHAIR}/box-006]"])
    assert json.loads((tmp_path / "x.json").read_text())["num_samples"] == 5
    assert (tmp_path / "cache").is_dir()


def test_a_threshold_can_be_fixed_and_other_data_get_files_of_their_own(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tiny_data(other, 5)
    before = sorted(path.name for path in run.iterdir())
    arguments = [str(run), "--data", str(other), "--categories", "chair", "--threshold", "0.33", "--views", "1"]
    main([*arguments, "--no-f-score"])
    content = json.loads((run / "evaluation-other-chair-threshold-0.33.json").read_text())
    assert list(content["results"][0]["categories"]) == ["chair"]
    assert content["num_samples"] == 1
    assert (content["results"][0]["threshold"], content["results"][0]["threshold_source"]) == (0.33, "given")
    assert content["results"][0]["mean_of_samples"]["f_score_1_percent"] is None
    for kind in ("json", "csv"):
        (run / f"evaluation-other-chair-threshold-0.33.{kind}").unlink()
    assert sorted(path.name for path in run.iterdir()) == before


def test_without_a_validation_part_the_released_threshold_is_taken(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "lonely"
    write_tiny_data(other, 2)  # of each category one to train on, one to test
    main([str(run), "--data", str(other), "--views", "1", "--no-f-score", "--json", str(tmp_path / "found.json")])
    (run / "evaluation-lonely.csv").unlink()
    result = json.loads((tmp_path / "found.json").read_text())["results"][0]
    assert result["threshold"] == 0.4
    assert "no validation part" in result["threshold_source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--views", "0"], "0 views cannot be evaluated"),
        (["{run}", "--threshold", "1.5"], "threshold 1.5 must be between 0 and 1"),
        (["{run}", "--batch-size", "0"], "evaluation.batch_size: 0 is not possible"),
        (["{run}", "--data", "{run}/none"], "none is not a directory"),
        (["{run}", "--data", "{run}"], "no folder ShapeNetRendering"),
        (["{run}", "--split", "unheard-of"], "'unheard-of' is neither 'r2n2' nor a file"),
        (["{run}", "--set", "model.width=1"], "evaluation takes data.validation_fraction, .* not model.width"),
        (["{run}", "--set", "train.dtype=float64"], "--set train.dtype=float64: use --dtype for train.dtype"),
        (["{run}", "--dtype", "float64", "--set", "train.cpu_threads=-1"], "train.cpu_threads: -1 is not possible"),
        (["{run}", "--categories", "chiar"], "did you mean 'chair'"),
        (["{run}", "--json", "{run}/none/file.json"], "there is no directory"),
        (["{run}/none"], "does not exist"),
        (["{run}/checkpoints"], "neither a checkpoint"),
    ],
)
def test_what_cannot_be_done_is_said(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main([argument.format(run=run) for argument in arguments])


def test_a_damaged_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(name="3d-gru-1", width=1 / 16))
    model = create_model("3d-gru-1", width=1 / 16)
    state = TrainingState(1, 1, 1.0)
    path = write_checkpoint(tmp_path / "checkpoints", model, {}, state, config)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\1\2\3")
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        main([str(tmp_path)])
