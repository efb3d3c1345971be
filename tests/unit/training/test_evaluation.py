import csv
import io
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.comm import Alone, Communicator, JobError
from hvd_r2n2.config import Config, DataConfig
from hvd_r2n2.data.augment import centre_crop
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.loader import Batch, evaluation_batches
from hvd_r2n2.models import create_model
from hvd_r2n2.training import evaluation_run
from hvd_r2n2.training.checkpoint import Checkpoint, TrainingState
from hvd_r2n2.training.evaluation import (
    ConstantPrediction,
    EvaluationResult,
    SampleRecord,
    choose_threshold,
    constant_prediction_iou,
    evaluate,
)
from hvd_r2n2.training.evaluation_report import EvaluatedThreshold, EvaluationReport
from hvd_r2n2.training.evaluation_run import evaluate_checkpoint
from hvd_r2n2.training.records import measure_samples
from hvd_r2n2.training.task import EvaluationOptions, Part
from tests.thread_ranks import on_ranks
from tests.tiny_data import write_tiny_data

RESOLUTION = 32
CPU = torch.device("cpu")


class Blur(nn.Module):
    """A network of no weights: the darker a part of the pictures, the more is there."""

    def forward(self, images_VBCHW: Tensor) -> Tensor:
        assert not self.training
        brightness_BDD = nn.functional.adaptive_avg_pool2d(images_VBCHW.mean(dim=(0, 2)), RESOLUTION)
        score_BDDD = (0.9 - brightness_BDD)[..., None] * torch.linspace(1, 8, RESOLUTION, dtype=images_VBCHW.dtype)
        return torch.stack((torch.zeros_like(score_BDDD), score_BDDD), dim=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_data(root, 11)  # 33 models, 9 of them for the test
    return open_dataset(DataConfig(root=str(root)), root, RESOLUTION, lambda text: None)


def evaluate_toy(dataset: Dataset, comm: Communicator, **options: Any) -> EvaluationResult:
    settings: dict[str, Any] = {"num_views": 2, "thresholds": (0.4, 0.5, 0.8), "batch_size": 4, "device": CPU} | options
    return evaluate(Blur(), dataset, dataset.test, comm=comm, **settings)


def test_every_figure_equals_one_computed_sample_by_sample(dataset: Dataset) -> None:
    result = evaluate_toy(dataset, Alone(), dtype="float64", f_score=True)
    assert [record.index for record in result.records] == dataset.test.tolist()
    ious: dict[str, list[float]] = {}
    for record in result.records:
        images = torch.from_numpy(dataset.images(record.index, [0, 1]))[:, None]
        logits = Blur().eval()(centre_crop(images, dtype=torch.float64))[0].numpy()
        odds = np.exp(logits[1] - logits[0])
        probability, truth = odds / (1 + odds), dataset.occupancy(record.index) > 0
        assert record.name == str(dataset.refs[record.index])
        for position, threshold in enumerate((0.4, 0.5, 0.8)):
            cut = probability > threshold
            assert record.intersection[position] == (cut & truth).sum()
            assert record.union[position] == (cut | truth).sum()
        cut = probability > 0.4
        ious.setdefault(record.category, []).append(float((cut & truth).sum() / (cut | truth).sum()))
        entropy = -np.where(truth, np.log(probability), np.log1p(-probability)).mean()
        assert record.cross_entropy == pytest.approx(entropy, rel=1e-12)
        assert record.f_score is not None
        assert 0 <= record.f_score <= 1
    assert list(ious) == ["aeroplane", "car", "chair"]
    everything = [iou for found in ious.values() for iou in found]
    assert result.mean_of_samples().iou[0] == pytest.approx(np.mean(everything), rel=1e-12)
    by_category = [np.mean(found) for found in ious.values()]
    assert [means.iou[0] for means in result.by_category().values()] == pytest.approx(by_category, rel=1e-12)
    assert result.mean_of_categories().iou[0] == pytest.approx(np.mean(by_category), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_is_the_same_with_any_number_of_threads_and_ranks(dataset: Dataset, dtype: str) -> None:
    # A real network, whose sums one thread takes in another order than several.
    model = create_model("res3d-gru-3", width=1 / 8, seed=4)

    def measure(comm: Communicator, threads: int) -> EvaluationResult:
        torch.set_num_threads(threads)
        return evaluate(
            model, dataset, dataset.test, num_views=2, comm=comm, device=CPU, dtype=dtype, batch_size=2, f_score=True
        )

    alone = measure(Alone(), 1)
    for threads in (2, 3):
        assert measure(Alone(), threads) == alone
        assert torch.get_num_threads() == threads
    for size in (2, 3):
        for result in on_ranks(size, lambda comm: measure(comm, 1)):
            assert result == alone


def test_without_a_cpu_the_network_runs_in_the_callers_thread_and_the_rest_in_others(dataset: Dataset) -> None:
    @dataclass(frozen=True)
    class Found:
        index: int
        network: str
        rest: str

    def measure(batch: Batch) -> Callable[[], list[Found]]:
        network = threading.current_thread().name
        return lambda: [Found(i, network, threading.current_thread().name) for i in batch.indices.tolist()]

    torch.set_num_threads(2)
    for device, threads in ((CPU, "hvd_r2n2-evaluation"), (torch.device("meta"), threading.current_thread().name)):
        records = measure_samples(
            nn.Identity(),
            evaluation_batches(dataset, dataset.test, 1, 2, 0, 1),
            measure,
            num_samples=len(dataset.test),
            title="",
            comm=Alone(),
            device=device,
            report=None,
        )
        assert [record.index for record in records] == dataset.test.tolist()
        assert all(record.network.startswith(threads) for record in records)
        assert all(record.rest.startswith("hvd_r2n2-evaluation") for record in records)


def test_an_error_in_the_network_is_raised_and_the_threads_are_as_before(dataset: Dataset) -> None:
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(3, 1)), dataset, dataset.test, num_views=1, comm=Alone(), device=CPU
        )
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_result_is_the_same_on_any_number_of_ranks(dataset: Dataset, size: int) -> None:
    # 9 samples in batches of 2 are 5 chunks, the last one short; on 3 ranks the shares are uneven.
    alone = evaluate_toy(dataset, Alone(), batch_size=2)
    for result in on_ranks(size, lambda comm: evaluate_toy(dataset, comm, batch_size=2)):
        assert result == alone


def test_a_rank_without_any_sample_gets_the_result_too(dataset: Dataset) -> None:
    alone = evaluate_toy(dataset, Alone(), batch_size=16)
    assert on_ranks(2, lambda comm: evaluate_toy(dataset, comm, batch_size=16)) == [alone, alone]


def test_the_mode_of_the_network_is_left_as_it_was(dataset: Dataset) -> None:
    for training in (True, False):
        model = Blur().train(training)
        evaluate(model, dataset, dataset.test, num_views=1, comm=Alone(), device=CPU)
        assert model.training is training


def test_only_the_first_views_are_seen(dataset: Dataset) -> None:
    one, three = evaluate_toy(dataset, Alone(), num_views=1), evaluate_toy(dataset, Alone(), num_views=3)
    assert one.mean_of_samples() != three.mean_of_samples()
    image = torch.from_numpy(dataset.images(int(dataset.test[0]), [0]))[:, None]
    probability = torch.softmax(Blur().eval()(centre_crop(image)), dim=1)[0, 1].numpy()
    truth = dataset.occupancy(int(dataset.test[0])) > 0
    assert one.records[0].intersection[1] == ((probability > 0.5) & truth).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_views": 25}, "25 views: the samples have 1 to 24"),
        ({"num_views": 0}, "0 views"),
        ({"thresholds": ()}, "at least one threshold"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(dataset: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_toy(dataset, Alone(), **options)


def test_an_empty_part_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="no sample"):
        evaluate(Blur(), dataset, dataset.test[:0], num_views=1, comm=Alone(), device=CPU)


def _result(counts: dict[str, tuple[tuple[int, int], ...]], thresholds: tuple[float, ...]) -> EvaluationResult:
    records = tuple(
        SampleRecord(index, name, tuple(c[0] for c in pairs), tuple(c[1] for c in pairs), 0.5 + index, 0.25, None)
        for index, (name, pairs) in enumerate(counts.items())
    )
    return EvaluationResult(2, thresholds, None, records)


THREE = _result(
    {
        "03001627/a": ((1, 2), (3, 4)),
        "03001627/b": ((1, 4), (1, 4)),
        "02691156/c": ((0, 0), (0, 5)),
    },
    (0.3, 0.6),
)


def test_means_over_categories_weigh_each_category_once() -> None:
    assert list(THREE.by_category()) == ["aeroplane", "chair"]
    assert THREE.by_category()["chair"].iou == (0.375, 0.5)
    assert THREE.by_category()["aeroplane"].iou == (1.0, 0.0)  # nothing there, nothing predicted: perfect
    assert THREE.mean_of_samples().iou == pytest.approx((1.75 / 3, 1 / 3))
    assert THREE.mean_of_categories().iou == (0.6875, 0.25)
    assert THREE.mean_of_samples().cross_entropy == 1.5
    assert THREE.mean_of_categories().cross_entropy == (1.0 + 2.5) / 2
    assert THREE.mean_of_samples().f_score is None


def test_the_threshold_chosen_is_the_best_and_the_lowest_of_equals() -> None:
    assert choose_threshold(THREE) == 0.3
    assert choose_threshold(_result({"03001627/a": ((1, 3), (1, 2), (1, 2))}, (0.2, 0.4, 0.6))) == 0.4
    with pytest.raises(ValueError, match=r"threshold 0\.5, only at 0\.3, 0\.6"):
        THREE.position_of(0.5)


def test_the_constant_prediction_equals_a_search_by_brute_force(dataset: Dataset) -> None:
    train = np.stack([dataset.occupancy(int(index)) > 0 for index in dataset.train])
    test = np.stack([dataset.occupancy(int(index)) > 0 for index in dataset.test])
    mean = train.mean(axis=0)
    found = {}
    for percent in range(1, 100):
        cut = mean > percent / 100
        found[percent / 100] = [float((cut & grid).sum() / (cut | grid).sum()) for grid in test]
    best = max(found, key=lambda threshold: np.mean(found[threshold]))
    constant = constant_prediction_iou(dataset, dataset.train, dataset.test)
    assert constant.threshold == best
    assert constant.iou_mean_of_samples == pytest.approx(np.mean(found[best]), rel=1e-12)
    # Each category has three test samples, so both means agree.
    assert constant.iou_mean_of_categories == pytest.approx(np.mean(found[best]), rel=1e-12)
    with pytest.raises(ValueError, match="there are 0 and 9"):
        constant_prediction_iou(dataset, dataset.train[:0], dataset.test)


# By number of views and figure: three chairs, an aeroplane, and by hand the means of chairs, categories and samples.
FIGURES = {
    1: {
        "iou_at_0.20": ((0.10, 0.20, 0.60), 0.90, 0.30, 0.60, 0.45),
        "iou_at_0.30": ((0.20, 0.20, 0.56), 0.80, 0.32, 0.56, 0.44),
        "iou_at_0.33": ((0.05, 0.40, 0.57), 0.70, 0.34, 0.52, 0.43),
        "iou_at_0.40": ((0.11, 0.41, 0.56), 0.60, 0.36, 0.48, 0.42),
        "iou_at_0.50": ((0.02, 0.32, 0.80), 0.50, 0.38, 0.44, 0.41),
        "average_precision": ((0.70, 0.80, 0.90), 0.40, 0.80, 0.60, 0.70),
        "cross_entropy": ((1.0, 2.0, 3.0), 0.4, 2.0, 1.2, 1.6),
        "f_score_1_percent": ((0.01, 0.02, 0.06), 0.07, 0.03, 0.05, 0.04),
    },
    3: {
        "iou_at_0.20": ((0.12, 0.22, 0.62), 1.00, 0.32, 0.66, 0.49),
        "iou_at_0.30": ((0.24, 0.34, 0.44), 0.90, 0.34, 0.62, 0.48),
        "iou_at_0.33": ((0.26, 0.36, 0.46), 0.80, 0.36, 0.58, 0.47),
        "iou_at_0.40": ((0.30, 0.40, 0.50), 0.60, 0.40, 0.50, 0.45),
        "iou_at_0.50": ((0.42, 0.46, 0.50), 0.54, 0.46, 0.50, 0.48),
        "average_precision": ((0.60, 0.70, 0.80), 0.90, 0.70, 0.80, 0.75),
        "cross_entropy": ((0.5, 1.0, 1.5), 0.2, 1.0, 0.6, 0.8),
        "f_score_1_percent": ((0.10, 0.20, 0.30), 0.60, 0.20, 0.40, 0.30),
    },
}
MEASURED = (0.2, 0.3, 0.33, 0.4, 0.5)
CUTS = {1: 0.33, 3: 0.5}
ROWS = {"aeroplane": "1", "chair": "3", "mean of categories": "4", "mean of samples": "4"}


def _means(views: int, row: str) -> dict[str, float]:
    """Return a row's means as `FIGURES` has them, and `iou`, that at the threshold."""
    column = {"aeroplane": 1, "chair": 2, "mean of categories": 3, "mean of samples": 4}[row]
    means = {name: values[column] for name, values in FIGURES[views].items()}
    return {"iou": means[f"iou_at_{CUTS[views]:.2f}"], **means}


def _uneven_result(views: int) -> EvaluationResult:
    columns = [(*chairs, aeroplane) for chairs, aeroplane, *_ in FIGURES[views].values()]
    names = ("03001627/a", "03001627/b", "03001627/c", "02691156/d")
    records = []
    for index, (name, values) in enumerate(zip(names, zip(*columns, strict=True), strict=True)):
        *ious, precision, entropy, f_score = values
        percent = tuple(round(100 * iou) for iou in ious)
        records.append(SampleRecord(index, name, percent, (100,) * len(percent), entropy, precision, f_score))
    return EvaluationResult(views, MEASURED, CUTS[views], tuple(records))


def _table(text: str) -> list[list[str]]:
    """Return the cells of a table, whose columns are two spaces or more apart, without its rules and empty cells."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if set(line) != {"-"}]


def test_a_report_has_every_figure_in_each_of_its_forms() -> None:
    report = EvaluationReport(
        checkpoint="runs/x",
        step=7,
        network="toy",
        data="here",
        split="r2n2",
        part="test",
        dtype="float32",
        results=(_uneven_result(1), _uneven_result(3)),
        thresholds=(EvaluatedThreshold(0.33, "given"), EvaluatedThreshold(0.5, "chosen")),
        constant_prediction=ConstantPrediction(0.61, 0.21, 0.22),
    )

    content = json.loads(report.to_json())
    facts = {"checkpoint": "runs/x", "step": 7, "network": "toy", "data": "here", "split": "r2n2", "part": "test"}
    assert content.items() >= (facts | {"num_samples": 4, "dtype": "float32"}).items()
    assert content["constant_prediction"] == {
        "iou_mean_of_samples": 0.21,
        "iou_mean_of_categories": 0.22,
        "threshold": 0.61,
        "threshold_source": "the best on the test part itself",
    }
    sources = [(found["num_views"], found["threshold"], found["threshold_source"]) for found in content["results"]]
    assert sources == [(1, 0.33, "given"), (3, 0.5, "chosen")]
    for found in content["results"]:
        assert list(found["categories"]) == ["aeroplane", "chair"]
        totals = {name.replace("_", " "): found[name] for name in ("mean_of_categories", "mean_of_samples")}
        for row, entry in (found["categories"] | totals).items():
            figures = {f"iou_at_{threshold}": iou for threshold, iou in entry.pop("iou_at").items()} | entry
            expected = _means(found["num_views"], row) | {"num_samples": int(ROWS[row])}
            assert figures == pytest.approx(expected, abs=1e-12), row

    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert rows == [
        {"num_views": str(views), "category": row, "num_samples": number, "threshold": f"{CUTS[views]}"}
        | {name: f"{value:.6f}" for name, value in _means(views, row).items() if name != "iou_at_0.33"}
        for views in (1, 3)
        for row, number in ROWS.items()
    ]

    heading, categories, metrics, notes = report.to_text().split("\n\n")
    assert heading.splitlines() == ["toy, runs/x at step 7, float32", "test part of split r2n2, here: 4 samples"]
    assert _table(categories) == [
        ["IoU by number of views", "samples", "1", "3"],
        *([row, number, *(f"{_means(views, row)['iou']:.4f}" for views in (1, 3))] for row, number in ROWS.items()),
        ["at threshold", "0.33", "0.5"],
    ]
    expected_metrics = [["by number of views", "1", "3"]]
    for title, name in (
        ("IoU at 0.2", "iou_at_0.20"),
        ("IoU at 0.3", "iou_at_0.30"),
        ("IoU at 0.4", "iou_at_0.40"),
        ("IoU at 0.5", "iou_at_0.50"),
        ("average precision", "average_precision"),
        ("cross-entropy", "cross_entropy"),
        ("F-score at 1 %", "f_score_1_percent"),
    ):
        for first, row in (([title], "mean of categories"), ([], "mean of samples")):
            expected_metrics.append([*first, row, *(f"{_means(views, row)[name]:.4f}" for views in (1, 3))])
    assert _table(metrics) == expected_metrics
    assert notes.splitlines() == [
        "threshold: chosen; given",
        "constant prediction (the training part's mean shape, cut at 0.61, the best for the test part): IoU 0.2200 "
        "mean of categories, 0.2100 mean of samples",
    ]

    assert report.summary() == {
        "iou": pytest.approx(0.43),
        "constant_iou": 0.21,
        "iou_mean_of_categories": pytest.approx(0.52),
        "constant_iou_mean_of_categories": 0.22,
        "views": 1,
        "threshold": 0.33,
        "split": "r2n2",
        "num_test_samples": 4,
    }
    assert report.headline() == (
        "test part (4 samples, 1 views, checkpoint of step 7, threshold 0.33 given): IoU 0.4300; the best constant "
        "prediction reaches 0.2100 (means of samples)"
    )


def test_ranks_that_measure_other_samples_are_found(dataset: Dataset) -> None:
    def measure(comm: Communicator) -> None:
        indices = dataset.test[comm.rank :]  # rank 1 does not see the first of 9
        message = rf"evaluating 1 view\(s\): 9 records of 7 samples, not one of each of {len(indices)}; every rank must"
        with pytest.raises(JobError, match=message):
            evaluate(Blur(), dataset, indices, num_views=1, comm=comm, device=CPU, batch_size=2)

    on_ranks(2, measure)


def test_the_validation_part_is_measured_once_and_its_threshold_is_called_its_own(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def counting(*arguments: Any, **options: Any) -> EvaluationResult:
        measured.append(len(arguments[2]))
        return evaluate(*arguments, **options)

    def report(part: Part, *, f_score: bool = False) -> EvaluationReport:
        measured.clear()
        options = EvaluationOptions(part, (1, 2), f_score=f_score)
        checkpoint = Checkpoint(Path("runs/x"), Config(), TrainingState(7, 7, 1.0))
        found = evaluate_checkpoint(
            checkpoint, Blur(), dataset, options, Config(), comm=Alone(), device=CPU, report=None
        )
        assert found is not None
        return found

    monkeypatch.setattr(evaluation_run, "evaluate", counting)
    validation, num_validation, num_test = report("validation"), len(dataset.validation), len(dataset.test)
    assert measured == [num_validation] * 2
    source = "chosen on this part itself, for each number of views"
    for result, threshold in zip(validation.results, validation.thresholds, strict=True):
        assert threshold == EvaluatedThreshold(choose_threshold(result), source)
    with_f_scores = report("validation", f_score=True)
    assert measured == [num_validation] * 4  # an F-score can only be measured at a threshold that is known
    assert with_f_scores.thresholds == validation.thresholds
    for result, other in zip(validation.results, with_f_scores.results, strict=True):
        assert tuple(replace(record, f_score=None) for record in other.records) == result.records
        assert other.mean_of_samples().f_score is not None
    test = report("test")
    assert measured == [num_validation, num_test] * 2
    source = "chosen on the validation part, for each number of views"
    assert test.thresholds == tuple(replace(threshold, source=source) for threshold in validation.thresholds)
