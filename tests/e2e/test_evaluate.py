import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hvd_r2n2.config import CheckpointConfig, Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig
from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.evaluate import main
from hvd_r2n2.models import create_model
from hvd_r2n2.training.checkpoint import TrainingState, write_checkpoint
from tests.tiny_data import write_tiny_data

CHAIR = "03001627"


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with one checkpoint, of a small network with random weights, on tiny data."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_data(folder / "data", 7)  # each category: 4 train, 1 validation, 2 test
    config = Config(
        model=ModelConfig(name="3d-gru-1", width=1 / 16),
        data=DataConfig(root=str(folder / "data")),
        train=TrainConfig(device="cpu", cpu_threads=1),
        evaluation=EvaluationConfig(batch_size=2),
        checkpoint=CheckpointConfig(),
    )
    model = create_model("3d-gru-1", width=1 / 16, seed=3)
    optimizer = torch.optim.Adam(model.parameters())
    write_checkpoint(folder / "run" / "checkpoints", model, optimizer, TrainingState(12, 48, 1.0), config, True)
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


def test_two_ranks_write_the_same_files_as_one(run: Path, tmp_path: Path, mpirun: Callable[..., Any]) -> None:
    common = ["--views", "2", "--no-f-score"]
    main([str(run), *common, "--json", str(tmp_path / "1.json"), "--csv", str(tmp_path / "1.csv")])
    together = ["--json", str(tmp_path / "2.json"), "--csv", str(tmp_path / "2.csv")]
    done = mpirun(2, "-m", "hvd_r2n2.evaluate", run, *common, *together)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    assert (tmp_path / "1.csv").read_text() == (tmp_path / "2.csv").read_text()
    assert done.stdout.count("IoU by number of views") == 1


def test_a_fault_ends_every_rank_with_its_message(run: Path, mpirun: Callable[..., Any]) -> None:
    done = mpirun(2, "-m", "hvd_r2n2.evaluate", run, "--views", "25")
    assert done.returncode != 0
    assert "evaluate: error: 25 views cannot be evaluated: each sample has 24 pictures" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_threshold_can_be_fixed_and_other_data_get_files_of_their_own(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tiny_data(other, 5)
    before = sorted(path.name for path in run.iterdir())
    arguments = [str(run), "--data", str(other), "--categories", "chair", "--threshold", "0.33", "--views", "1"]
    main([*arguments, "--no-f-score"])
    content = json.loads((run / "evaluation-other-chair.json").read_text())
    assert list(content["results"][0]["categories"]) == ["chair"]
    assert content["num_samples"] == 1
    assert (content["results"][0]["threshold"], content["results"][0]["threshold_source"]) == (0.33, "given")
    assert content["results"][0]["mean_of_samples"]["f_score_1_percent"] is None
    for name in ("evaluation-other-chair.json", "evaluation-other-chair.csv"):
        (run / name).unlink()
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
    path = write_checkpoint(tmp_path / "checkpoints", model, torch.optim.Adam(model.parameters()), state, config, False)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\1\2\3")
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        main([str(tmp_path)])
