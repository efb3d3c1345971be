"""Evaluation of a reconstruction over many samples and ranks: exact means, the threshold, the constant baseline.

Each sample gives one record of counts and sums. The records of all ranks are gathered and sorted, and only then
are means taken, with exactly rounded sums: the result does not depend on the number of ranks, nor on their threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.data.loader import Batch, evaluation_batches, prepare_batch
from hvd_r2n2.training import metrics
from hvd_r2n2.training.precision import autocast, weights_dtype
from hvd_r2n2.training.records import measure_samples

RELEASED_THRESHOLD = 0.4
"""The threshold of the released code of 3D-R2N2 (`lib/config.py`, TEST.VOXEL_THRESH)."""

REPORTED_THRESHOLDS = (0.2, 0.3, 0.4, 0.5)
"""Thresholds that later publications report (Pix2Vox, `config.py`, TEST.VOXEL_THRESH)."""

CANDIDATE_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Thresholds among which `choose_threshold` chooses: 0.05 to 0.95."""

_CONSTANT_THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 100))


@dataclass(frozen=True)
class SampleRecord:
    """What was measured of one sample; `intersection` and `union` count voxels, one entry a threshold."""

    index: int
    name: str
    """synset/model."""
    intersection: tuple[int, ...]
    union: tuple[int, ...]
    cross_entropy: float
    average_precision: float
    f_score: float | None = None

    @property
    def category(self) -> str:
        """The category's English name, or the synset id where it is none of the 13."""
        return _category_name(self.name)


@dataclass(frozen=True)
class Means:
    """Means over `num_samples` samples, or over categories; `iou` has one entry a threshold."""

    num_samples: int
    iou: tuple[float, ...]
    cross_entropy: float
    average_precision: float
    f_score: float | None


@dataclass(frozen=True)
class EvaluationResult:
    """The records of all samples, by dataset index, and the means over them."""

    num_views: int
    thresholds: tuple[float, ...]
    f_score_threshold: float | None
    """Threshold of the grids that the F-score compared; None where it was not measured."""
    records: tuple[SampleRecord, ...]

    def by_category(self) -> dict[str, Means]:
        """Return the means over each category's samples, in the order of the synset ids."""
        grouped: dict[str, list[SampleRecord]] = {}
        for record in sorted(self.records, key=lambda record: record.name):
            grouped.setdefault(record.category, []).append(record)
        return {category: _means_of_records(records) for category, records in grouped.items()}

    def mean_of_samples(self) -> Means:
        """Return the means over all samples, each with the same weight."""
        return _means_of_records(self.records)

    def mean_of_categories(self) -> Means:
        """Return the means over the categories' means, each category with the same weight."""
        means = list(self.by_category().values())
        f_scores = [mean.f_score for mean in means if mean.f_score is not None]
        return Means(
            num_samples=len(self.records),
            iou=tuple(fmean(column) for column in zip(*(mean.iou for mean in means), strict=True)),
            cross_entropy=fmean([mean.cross_entropy for mean in means]),
            average_precision=fmean([mean.average_precision for mean in means]),
            f_score=fmean(f_scores) if f_scores else None,
        )

    def position_of(self, threshold: float) -> int:
        """Return where `threshold` stands in `iou` of the means.

        Raises:
            ValueError: the IoU was not measured at this threshold.
        """
        if threshold not in self.thresholds:
            measured = ", ".join(f"{known:g}" for known in self.thresholds)
            raise ValueError(f"IoU was not measured at threshold {threshold:g}, only at {measured}")
        return self.thresholds.index(threshold)


@dataclass(frozen=True)
class ConstantPrediction:
    """IoU of the best prediction that looks at no picture."""

    threshold: float
    iou_mean_of_samples: float
    iou_mean_of_categories: float


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    indices: npt.NDArray[np.int64],
    *,
    num_views: int,
    thresholds: Sequence[float] = (RELEASED_THRESHOLD,),
    comm: Communicator,
    device: torch.device,
    dtype: str = "float32",
    batch_size: int = 16,
    f_score: bool = False,
    f_score_threshold: float = RELEASED_THRESHOLD,
    report: Callable[[str], None] | None = None,
) -> EvaluationResult:
    """Measure the network on samples `indices` from their first `num_views` renderings.

    Every rank must call this, with the same arguments but `device` and `report`, and gets the same result; see
    `measure_samples`. `dtype` is one of `precision.DTYPES`. With `report`, this rank's progress is shown.

    Raises:
        ValueError: no samples, no thresholds, or a number of views that the renderings do not have.
    """
    if len(indices) == 0:
        raise ValueError("there is no sample to evaluate: this part of the data is empty")
    if not thresholds:
        raise ValueError("evaluation needs at least one threshold")
    if not 1 <= num_views <= dataset.num_views:
        raise ValueError(f"evaluation with {num_views} views: the samples have 1 to {dataset.num_views}")
    measured = tuple(sorted(set(thresholds)))
    cut = f_score_threshold if f_score else None

    def measure(batch: Batch) -> Callable[[], list[SampleRecord]]:
        images_VBCHW, occupancy_BDDD = prepare_batch(batch, device, weights_dtype(dtype))
        with autocast(dtype, device):
            logits_B2DDD = model(images_VBCHW)
        return _measure(batch, logits_B2DDD, occupancy_BDDD, measured, cut)

    batches = evaluation_batches(dataset, indices, num_views, batch_size, comm.rank, comm.size, pin_for=device)
    records = measure_samples(
        model,
        batches,
        measure,
        num_samples=len(indices),
        title=f"evaluating {num_views} view(s)",
        comm=comm,
        device=device,
        report=report,
    )
    return EvaluationResult(num_views, measured, cut, records)


def choose_threshold(result: EvaluationResult) -> float:
    """Return the measured threshold with the highest IoU, mean of samples; the lowest of equals.

    `result` must come from the validation part: a threshold chosen on the test part flatters the test.
    """
    iou_T = result.mean_of_samples().iou
    return result.thresholds[iou_T.index(max(iou_T))]


def constant_prediction_iou(
    dataset: Dataset, train_indices: npt.NDArray[np.int64], test_indices: npt.NDArray[np.int64]
) -> ConstantPrediction:
    """Measure the best constant prediction: the training part's mean occupancy, thresholded.

    What a network must beat to have looked at its pictures at all. The threshold (0.01 to 0.99) is the one with
    the highest IoU on the test part itself, mean of samples: generous to the baseline, on purpose. No pictures are
    read; one process does this alone.

    Raises:
        ValueError: one of the two parts is empty.
    """
    if len(train_indices) == 0 or len(test_indices) == 0:
        raise ValueError(
            f"the constant prediction needs training and test samples, there are {len(train_indices)} "
            f"and {len(test_indices)}"
        )
    total_DDD = np.zeros(dataset.occupancy(int(train_indices[0])).shape, dtype=np.int64)
    for index in train_indices:
        total_DDD += dataset.occupancy(int(index)) > 0
    mean_N = (total_DDD / len(train_indices)).ravel()
    # How many of the thresholds each voxel's mean exceeds: sums from the top then serve all thresholds at once.
    num_thresholds = len(_CONSTANT_THRESHOLDS)
    num_exceeded_N = np.searchsorted(np.asarray(_CONSTANT_THRESHOLDS), mean_N, side="left")
    predicted_T = _count_from_top(num_exceeded_N, num_thresholds)
    iou_ST = np.empty((len(test_indices), num_thresholds))
    for row, index in enumerate(test_indices):
        truth_N = dataset.occupancy(int(index)).ravel() > 0
        intersection_T = _count_from_top(num_exceeded_N[truth_N], num_thresholds)
        union_T = predicted_T + int(truth_N.sum()) - intersection_T
        iou_ST[row] = np.where(union_T > 0, intersection_T / np.maximum(union_T, 1), 1.0)
    best = int(iou_ST.mean(axis=0).argmax())
    by_category: dict[str, list[float]] = {}
    for index, iou in zip(test_indices, iou_ST[:, best], strict=True):
        by_category.setdefault(dataset.refs[int(index)].synset, []).append(float(iou))
    return ConstantPrediction(
        threshold=_CONSTANT_THRESHOLDS[best],
        iou_mean_of_samples=fmean(iou_ST[:, best].tolist()),
        iou_mean_of_categories=fmean([fmean(ious) for ious in by_category.values()]),
    )


def _measure(
    batch: Batch,
    logits_B2DDD: torch.Tensor,
    occupancy_BDDD: torch.Tensor,
    thresholds: tuple[float, ...],
    f_score_threshold: float | None,
) -> Callable[[], list[SampleRecord]]:
    """Measure a batch, and return what is left: F-scores, which are computed on a CPU and take the longest."""
    probability_BDDD = metrics.occupancy_probability(logits_B2DDD)
    intersection_BT, union_BT = metrics.intersection_and_union(probability_BDDD, occupancy_BDDD, thresholds)
    columns = zip(
        batch.indices.tolist(),
        batch.samples,
        map(tuple, intersection_BT.tolist()),
        map(tuple, union_BT.tolist()),
        metrics.sample_cross_entropy(logits_B2DDD, occupancy_BDDD).tolist(),
        metrics.average_precision(probability_BDDD, occupancy_BDDD).tolist(),
        strict=True,
    )
    records = [SampleRecord(*column) for column in columns]
    if f_score_threshold is None:
        return lambda: records
    predicted_BDDD = (probability_BDDD > f_score_threshold).cpu().numpy()
    truth_BDDD = (occupancy_BDDD > 0).cpu().numpy()

    def with_f_scores() -> list[SampleRecord]:
        grids = zip(records, predicted_BDDD, truth_BDDD, strict=True)
        return [replace(record, f_score=metrics.f_score(predicted, truth)) for record, predicted, truth in grids]

    return with_f_scores


def _means_of_records(records: Sequence[SampleRecord]) -> Means:
    f_scores = [record.f_score for record in records if record.f_score is not None]
    iou_ST = [
        [metrics.intersection_over_union(*counts) for counts in zip(record.intersection, record.union, strict=True)]
        for record in records
    ]
    return Means(
        num_samples=len(records),
        iou=tuple(fmean(column) for column in zip(*iou_ST, strict=True)),
        cross_entropy=fmean([record.cross_entropy for record in records]),
        average_precision=fmean([record.average_precision for record in records]),
        f_score=fmean(f_scores) if f_scores else None,
    )


def _count_from_top(num_exceeded: npt.NDArray[np.intp], num_thresholds: int) -> npt.NDArray[np.intp]:
    """Count the entries that exceed each threshold, given how many thresholds each entry exceeds."""
    counts = np.bincount(num_exceeded, minlength=num_thresholds + 1)
    return counts[::-1].cumsum()[::-1][1:]


def _category_name(sample_name: str) -> str:
    synset = sample_name.split("/", 1)[0]
    return CATEGORIES[synset].name if synset in CATEGORIES else synset
