"""Classification: what is measured of it, the same on any number of ranks, and how it is reported."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.comm import Alone, Communicator
from hvd_r2n2.config import DataConfig
from hvd_r2n2.data.picture_folder import PictureFolder, open_picture_folder
from hvd_r2n2.models import create_model
from hvd_r2n2.training.classification import (
    ClassificationResult,
    PictureRecord,
    classify,
    constant_class,
)
from hvd_r2n2.training.classification_report import ClassificationReport
from tests.labelled_data import CLASSES, write_labelled_data
from tests.thread_ranks import on_ranks

CPU = torch.device("cpu")


class Colours(nn.Module):
    """A network of no weights: its logits are the mean colours."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        assert not self.training
        return images_BCHW.mean(dim=(2, 3)) / 100


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    root = write_labelled_data(tmp_path_factory.mktemp("labelled"), 25)
    return open_picture_folder(DataConfig(root=str(root)), root, CLASSES, lambda text: None)


def measured(dataset: PictureFolder, comm: Communicator, **options: object) -> ClassificationResult:
    settings: dict[str, object] = {"batch_size": 4, "device": CPU, "dtype": "float64"} | options
    return classify(Colours(), dataset, dataset.test, comm=comm, **settings)  # type: ignore[arg-type]


def test_every_figure_equals_one_computed_picture_by_picture(dataset: PictureFolder) -> None:
    result = measured(dataset, Alone())
    assert [record.index for record in result.records] == dataset.test.tolist()
    right, entropies = {}, []
    for record in result.records:
        rgba_HWC = dataset.images(record.index, [0])[0, 14 : 14 + 227, 14 : 14 + 227].astype(np.float64)
        alpha = rgba_HWC[..., 3:] / 255
        logits = (alpha * rgba_HWC[..., :3] + (1 - alpha) * 240 - 128).mean(axis=(0, 1)) / 100
        label = CLASSES.index(record.name.partition("/")[0])
        assert (record.label, record.predicted) == (label, int(logits.argmax()))
        assert record.cross_entropy == pytest.approx(np.log(np.exp(logits).sum()) - logits[label], rel=1e-9)
        right.setdefault(CLASSES[label], []).append(int(logits.argmax()) == label)
        entropies.append(record.cross_entropy)
    everything = [value for values in right.values() for value in values]
    assert 0 < np.mean(everything) < 1
    assert result.mean_of_samples().accuracy == np.mean(everything)
    assert result.mean_of_samples().cross_entropy == pytest.approx(np.mean(entropies), rel=1e-12)
    assert result.mean_of_classes().accuracy == pytest.approx(np.mean([np.mean(v) for v in right.values()]), rel=1e-12)
    assert {name: means.accuracy for name, means in result.by_class().items()} == {
        name: pytest.approx(np.mean(values), rel=1e-12) for name, values in right.items()
    }


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_result_is_the_same_on_any_number_of_ranks(dataset: PictureFolder, size: int) -> None:
    alone = measured(dataset, Alone())
    for result in on_ranks(size, lambda comm: measured(dataset, comm)):
        assert result == alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_is_the_same_with_any_number_of_threads_and_ranks(dataset: PictureFolder, dtype: str) -> None:
    model = create_model("alexnet", width=1 / 16, num_classes=3, seed=1)

    def measure(comm: Communicator, threads: int) -> ClassificationResult:
        torch.set_num_threads(threads)
        return classify(model, dataset, dataset.test, comm=comm, device=CPU, dtype=dtype, batch_size=2)

    alone = measure(Alone(), 1)
    assert measure(Alone(), 3) == alone
    for result in on_ranks(2, lambda comm: measure(comm, 1)):
        assert result == alone


def test_an_empty_part_is_refused(dataset: PictureFolder) -> None:
    with pytest.raises(ValueError, match="no picture"):
        classify(Colours(), dataset, dataset.test[:0], comm=Alone(), device=CPU)


FIVE = ClassificationResult(
    ("cat", "dog", "owl", "elk"),
    tuple(
        PictureRecord(index, f"picture {index}", label, predicted, 0.5 * index)
        for index, (label, predicted) in enumerate([(0, 0), (0, 1), (0, 0), (0, 2), (2, 2)])
    ),
)


def test_means_over_classes_weigh_each_class_that_has_pictures_once() -> None:
    assert list(FIVE.by_class()) == ["cat", "owl"]
    assert FIVE.by_class()["cat"].accuracy == 0.5
    assert FIVE.mean_of_samples().accuracy == 0.6
    assert FIVE.mean_of_classes().accuracy == 0.75
    assert FIVE.mean_of_samples().cross_entropy == 1.0
    assert FIVE.mean_of_classes().cross_entropy == (0.75 + 2.0) / 2


def test_confusion_has_the_own_class_in_rows_and_the_named_one_in_columns() -> None:
    assert FIVE.confusion().tolist() == [[2, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_the_constant_prediction_is_the_training_parts_most_frequent_class(dataset: PictureFolder) -> None:
    of_class = [dataset.train[dataset.labels_N[dataset.train] == number] for number in range(3)]
    tested = [dataset.test[dataset.labels_N[dataset.test] == number] for number in range(3)]
    train = np.concatenate([of_class[0][:3], of_class[1][:7], of_class[2][:5]])
    constant = constant_class(dataset, train, np.concatenate([tested[0][:4], tested[1][:1]]))
    assert (constant.name, constant.accuracy_mean_of_samples, constant.accuracy_mean_of_classes) == ("discs", 0.2, 0.5)
    without = constant_class(dataset, train, tested[2])
    assert (without.accuracy_mean_of_samples, without.accuracy_mean_of_classes) == (0.0, 0.0)


def test_a_report_has_every_figure_in_each_of_its_forms(dataset: PictureFolder) -> None:
    result = measured(dataset, Alone())
    constant = constant_class(dataset, dataset.train, dataset.test)
    report = ClassificationReport("runs/x", 7, "toy", "here", "r2n2", "test", "float64", result, constant)
    content, rows = json.loads(report.to_json()), list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["class"] for row in rows] == [*CLASSES, "mean of classes", "mean of pictures"]
    for row, name in zip(rows, CLASSES, strict=False):
        means = result.by_class()[name]
        assert content["classes"][name] == {
            "num_samples": means.num_samples,
            "accuracy": means.accuracy,
            "cross_entropy": means.cross_entropy,
        }
        assert float(row["accuracy"]) == pytest.approx(means.accuracy, abs=1e-6)
        (line,) = (line for line in report.to_text().splitlines() if line.startswith(name))
        assert line.split()[1:4] == ["5", f"{means.accuracy:.4f}", f"{means.cross_entropy:.4f}"]
    assert content["confusion"]["classes"] == list(CLASSES)
    assert content["confusion"]["counts"] == result.confusion().tolist()
    assert content["mean_of_samples"]["accuracy"] == result.mean_of_samples().accuracy
    assert content["constant_prediction"]["accuracy_mean_of_samples"] == pytest.approx(1 / 3)
    assert report.summary()["accuracy"] == result.mean_of_samples().accuracy
    assert f"{result.mean_of_samples().accuracy:.1%} named right; always bars: 33.3%" in report.headline()
    assert "test part of split r2n2, here: 15 pictures" in report.to_text()
