import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageDraw

from hvd_r2n2.config import Config, ModelConfig
from hvd_r2n2.data.binvox import read_binvox
from hvd_r2n2.models import create_model, save_original_weights
from hvd_r2n2.reconstruct import main
from hvd_r2n2.training.checkpoint import TrainingState, write_checkpoint

NAMES = ["model.binvox", "model.glb", "model.obj", "preview.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with one checkpoint, of a small network with random weights."""
    folder = tmp_path_factory.mktemp("reconstruct") / "run"
    config = Config(model=ModelConfig(name="res3d-gru-3", width=1 / 16))
    model = create_model("res3d-gru-3", width=1 / 16, seed=5)
    write_checkpoint(folder / "checkpoints", model, {}, TrainingState(1, 1, 1.0, best_step=1), config)
    return folder


@pytest.fixture(scope="module", params=["02691156", "02958343", "03001627"], ids=["aeroplane", "car", "chair"])
def pictures(shared_data: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Three real renderings of one object."""
    folder = shared_data / "r2n2_samples" / "ShapeNetRendering" / request.param / "sample" / "rendering"
    return [folder / f"{view:02d}.png" for view in range(3)]


def _probability(pictures: list[Path]) -> np.ndarray:
    """Compute the network's answer from the files, without the package's code for pictures."""
    views = []
    for path in pictures:
        picture = np.asarray(Image.open(path))
        colours = np.where(picture[..., 3:] == 0, 240, picture[..., :3])[5:132, 5:132]
        views.append(torch.from_numpy(colours.transpose(2, 0, 1) / 255).float())
    with torch.no_grad():
        logits = create_model("res3d-gru-3", width=1 / 16, seed=5).eval()(torch.stack(views)[:, None])[0]
    return torch.softmax(logits.double(), dim=0)[1].numpy()


def _threshold(probability: np.ndarray) -> float:
    """Return a threshold that a twentieth of the voxels exceed, and that none is close to."""
    ordered = np.sort(probability, axis=None)
    around = slice(len(ordered) * 94 // 100, len(ordered) * 96 // 100)
    place = int(np.diff(ordered[around]).argmax()) + around.start
    return float((ordered[place] + ordered[place + 1]) / 2)


@pytest.mark.parametrize("num_views", [1, 3])
def test_real_pictures_give_the_network_s_voxels(
    run: Path, pictures: list[Path], tmp_path: Path, num_views: int
) -> None:
    probability = _probability(pictures[:num_views])
    threshold = _threshold(probability)
    out = tmp_path / "deep" / "out"
    main([str(run), *map(str, pictures[:num_views]), "--out", str(out), "--threshold", repr(threshold)])
    assert sorted(path.name for path in out.iterdir()) == NAMES
    voxels = read_binvox(out / "model.binvox").occupancy_XYZ
    assert (voxels == (probability > threshold)).all()
    for name in ("model.obj", "model.glb"):
        mesh = trimesh.load(out / name, force="mesh", process=False)
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(voxels.sum() / 32**3, rel=1e-5)
    with Image.open(out / "preview.png") as preview:
        assert preview.width > 256 * (num_views + 3)
        assert np.asarray(preview).std() > 5


def test_marching_cubes_make_a_smoother_mesh(run: Path, shared_data: Path, tmp_path: Path) -> None:
    picture = shared_data / "r2n2_samples/ShapeNetRendering/03001627/sample/rendering/00.png"
    threshold = _threshold(_probability([picture]))
    faces = {}
    for method in ("blocky", "marching-cubes"):
        out = tmp_path / method
        main([str(run), str(picture), "--out", str(out), "--threshold", repr(threshold), "--mesh", method])
        normals = trimesh.load(out / "model.obj", force="mesh").face_normals
        faces[method] = np.isclose(np.abs(normals).max(axis=1), 1, atol=1e-6).mean()
    assert faces["blocky"] == 1.0
    assert faces["marching-cubes"] < 0.5


def test_the_threshold_comes_from_the_run_s_evaluation(
    run: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = shared_data / "r2n2_samples/ShapeNetRendering/03001627/sample/rendering/00.png"
    threshold = _threshold(_probability([picture]))
    path = run / "evaluation.json"
    results = [{"num_views": 1, "threshold": threshold}, {"num_views": 4, "threshold": 0.99}]
    path.write_text(json.dumps({"step": 1, "results": results}))
    try:
        main([str(run), str(picture), "--out", str(tmp_path)])
        expected = (_probability([picture]) > threshold).sum()
        assert f"{expected} of 32768 voxels are occupied" in capsys.readouterr().out
        path.write_text(json.dumps({"step": 2, "results": [{"num_views": 1, "threshold": 0.01}]}))
        main([str(run), str(picture), "--out", str(tmp_path)])
        assert f"at threshold 0.4 (the released code's; {path} is of step 2, the ch" in capsys.readouterr().out
        path.write_text("{}")
        with pytest.raises(ValueError, match="evaluate again, or give --threshold"):
            main([str(run), str(picture), "--out", str(tmp_path)])
    finally:
        path.unlink()
    main([str(run), str(picture), "--out", str(tmp_path), "--threshold", "0.5"])
    assert "at threshold 0.5 (given)" in capsys.readouterr().out


def test_a_photograph_before_a_plain_background_is_used(run: Path, tmp_path: Path) -> None:
    image = Image.new("RGB", (640, 480), (235, 235, 230))
    ImageDraw.Draw(image).rectangle((100, 100, 300, 400), fill=(90, 40, 20))
    image.save(tmp_path / "photograph.jpg")
    main([str(run), str(tmp_path / "photograph.jpg"), "--out", str(tmp_path / "out"), "--threshold", "0.5"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES


def test_weights_of_the_original_authors_are_used_without_a_checkpoint(shared_data: Path, tmp_path: Path) -> None:
    picture = shared_data / "r2n2_samples/ShapeNetRendering/03001627/sample/rendering/00.png"
    model = create_model("res3d-gru-3", seed=2).eval()
    save_original_weights(model, tmp_path / "weights.npy")
    colours = np.asarray(Image.open(picture))
    colours = np.where(colours[..., 3:] == 0, 240, colours[..., :3])[5:132, 5:132]
    with torch.no_grad():
        logits = model(torch.from_numpy(colours.transpose(2, 0, 1) / 255).float()[None, None])[0]
    probability = torch.softmax(logits.double(), dim=0)[1].numpy()
    threshold = _threshold(probability)
    weights = ["--original-weights", str(tmp_path / "weights.npy")]
    main([str(picture), "--out", str(tmp_path / "out"), "--threshold", repr(threshold), *weights])
    voxels = read_binvox(tmp_path / "out" / "model.binvox").occupancy_XYZ
    assert np.mean(voxels != (probability > threshold)) < 1e-4


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGBA", (137, 137))
    ImageDraw.Draw(image).rectangle((30, 30, 100, 100), fill=(90, 40, 20, 255))
    image.save(tmp_path / "good.png")
    return tmp_path / "good.png"


def test_all_bad_pictures_are_told_at_once(run: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    bad = [str(tmp_path / "text.png"), str(picture), str(tmp_path / "missing.png")]
    with pytest.raises(ValueError, match=r"(?s)text\.png is not a picture.*missing\.png does not exist") as caught:
        main([str(run), *bad, "--out", str(tmp_path / "out")])
    assert "good.png" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_said(run: Path, picture: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="no pictures are given"):
        main([str(run), *out])
    with pytest.raises(ValueError, match="neither a checkpoint"):
        main([str(tmp_path), str(picture), *out])
    with pytest.raises(ValueError, match="--threshold 2 must be between 0 and 1"):
        main([str(run), str(picture), *out, "--threshold", "2"])
    with pytest.raises(ValueError, match=r"no voxel's probability exceeds the threshold 0\.999999: the highest is 0\."):
        main([str(run), str(picture), *out, "--threshold", "0.999999"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is a file: --out needs a directory"):
        main([str(run), str(picture), "--out", str(picture), "--threshold", "0.5"])
    with pytest.raises(OSError, match=r"good\.png"):
        main([str(run), str(picture), "--out", str(picture / "below"), "--threshold", "0.5"])


def test_a_failed_command_says_why_and_fails(run: Path, tmp_path: Path, python: Callable[..., Any]) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    done = python("-m", "hvd_r2n2.reconstruct", run, tmp_path / "text.png", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("hvd_r2n2.reconstruct: error:")
    assert "is not a picture that can be read" in done.stderr
