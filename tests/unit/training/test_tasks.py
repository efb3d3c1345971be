"""The two tasks: what is filled in of the settings, and what the networks and losses are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from hvd_r2n2.comm import Alone
from hvd_r2n2.common.stages import run_stages
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.labelled import LabelledRenderings
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.tasks import create_task, resolve
from tests.labelled_data import CLASSES, write_labelled_data

CPU = torch.device("cpu")
ALEXNET = ("model.name=alexnet", "model.width=0.0625")


class Half(Alone):
    """One of two ranks, as far as reading batches goes."""

    size = 2

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_data(tmp_path_factory.mktemp("labelled"))


def settings(pictures: Path, *overrides: str) -> Config:
    return resolve(load_config(None, [*ALEXNET, f"data.root={pictures}", "train.batch_size=6", *overrides]))


def test_classes_and_towers_are_filled_in_once(pictures: Path) -> None:
    config = settings(pictures)
    assert config.data.categories == CLASSES
    assert config.model.num_classes == 3
    assert config.model.cross == ("conv3", "fc6", "fc7", "fc8")
    assert resolve(config) == config
    assert resolve(load_config(None, ["model.name=3d-gru-1"])).model.cross is None
    assert settings(pictures, "model.cross=null").model.cross is None
    assert settings(pictures, "model.cross=[conv3]").model.cross == ("conv3",)
    chosen = settings(pictures, "data.categories=[squares, bars]")
    assert (chosen.data.categories, chosen.model.num_classes) == (("bars", "squares"), 2)


def test_classes_of_models_are_their_categories(tiny_data: Path) -> None:
    built_in = resolve(load_config(None, list(ALEXNET)))
    assert built_in.data.categories == tuple(category.name for category in CATEGORIES.values())
    assert built_in.model.num_classes == 13
    layout = settings(tiny_data)
    assert (layout.data.categories, layout.model.num_classes) == (("aeroplane", "car", "chair"), 3)
    assert settings(tiny_data, "data.categories=[chair, '02691156']").data.categories == ("aeroplane", "chair")


def test_classes_that_do_not_go_are_explained(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.num_classes: 5, but there are 3 classes .*\(bars, discs, squares\)"):
        settings(pictures, "model.num_classes=5")
    with pytest.raises(ValueError, match=r"1 class \(bars\), at least 2"):
        settings(pictures, "data.categories=[bars]")
    with pytest.raises(ValueError, match="names a category twice"):
        settings(pictures, "data.categories=[bars, bars]")
    with pytest.raises(ValueError, match="absent: no such folder"):
        settings(tmp_path / "absent")
    with pytest.raises(ValueError, match="not known before the data are"):
        build_model(load_config(None, list(ALEXNET)).model, 0)


def test_renderings_in_the_layout_of_models_are_labelled_pictures(tiny_data: Path) -> None:
    config = settings(tiny_data)
    dataset = create_task(config).open_data(Alone(), lambda text: None)
    assert isinstance(dataset, LabelledRenderings)
    assert len(dataset) == 3 * 6 * 24
    assert {str(dataset.refs[index])[:-3] for index in dataset.test} == {
        f"{synset}/box-{number:03d}" for synset in ("02691156", "02958343", "03001627") for number in (4, 5)
    }


def test_the_loss_of_a_global_batch_is_the_mean_of_its_parts_with_the_same_gradient(pictures: Path) -> None:
    config = settings(pictures, "train.steps=2")
    task = create_task(config)
    dataset = task.open_data(Alone(), lambda text: None)
    model = build_model(config.model, 0).double()
    stages = (*model.stages(), task.loss_stage())

    def loss(rank: int | None) -> torch.Tensor:
        comm = Alone() if rank is None else Half(rank)
        with task.training_batches(dataset, comm, CPU, start_step=1) as batches:
            (batch,) = batches
        inputs = task.prepare(batch, CPU, torch.float64)
        assert set(inputs) == {"images", "labels", "dropout6", "dropout7"}
        assert inputs["dropout6"].shape == (len(batch.samples), 256)
        return run_stages(stages, inputs, {"loss"})["loss"]

    parameters = list(model.parameters())
    whole = loss(None)
    halves = (loss(0) + loss(1)) / 2
    torch.testing.assert_close(whole, halves, rtol=1e-13, atol=0)
    for one, other in zip(torch.autograd.grad(whole, parameters), torch.autograd.grad(halves, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-15)


def test_reconstruction_gives_pictures_and_grids(tiny_data: Path) -> None:
    overrides = ["model.name=3d-gru-1", f"data.root={tiny_data}", "train.batch_size=6", "train.steps=1"]
    config = resolve(load_config(None, overrides))
    task = create_task(config)
    dataset = task.open_data(Alone(), lambda text: None)
    with task.training_batches(dataset, Alone(), CPU, start_step=0) as batches:
        (batch,) = batches
    inputs = task.prepare(batch, CPU, torch.float64)
    num_views = batch.num_images // 6
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
        "images": (num_views, 6, 3, 127, 127),
        "occupancy": (6, 32, 32, 32),
    }
    assert [read.tensor.name for read in task.loss_stage().inputs] == ["logits", "occupancy"]


def test_pictures_are_shown_under_the_names_that_they_are_given(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures, "log.pictures=5")
    task = create_task(config)
    dataset = task.open_data(Alone(), lambda text: None)
    model = build_model(config.model, 0).train()
    with RunLog(tmp_path, is_root=True, is_under_launcher=True) as log:
        log.begin(0, 1, tensorboard=False)
        task.show("test", model, dataset, CPU, log, 3)
    assert model.training
    sheet = Image.open(tmp_path / "pictures" / "test-step-00000003.png")
    assert sheet.width > 5 * 160
    assert len(sheet.getcolors(1 << 24) or []) > 10


def test_validation_scores_by_accuracy(pictures: Path) -> None:
    config = settings(pictures)
    task = create_task(config)
    dataset = task.open_data(Alone(), lambda text: None)
    validation = task.validate(build_model(config.model, 0), dataset, Alone(), CPU)
    assert validation.score == validation.figures["validation/accuracy_mean_of_samples"]
    assert {name for name in validation.figures if name.startswith("validation_accuracy/")} == {
        f"validation_accuracy/{name}" for name in CLASSES
    }
    assert f"accuracy {validation.score:.4f} (mean of pictures)" in validation.text
