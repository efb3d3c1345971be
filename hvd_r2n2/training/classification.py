"""Evaluation of a classification: one record a picture, exact means, the confusion matrix, the constant baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.data.labelled import LabelledPictures
from hvd_r2n2.data.loader import Batch, evaluation_batches, prepare_labelled
from hvd_r2n2.training.precision import autocast, weights_dtype
from hvd_r2n2.training.records import measure_samples


@dataclass(frozen=True)
class PictureRecord:
    """What was measured of one picture; classes are numbers."""

    index: int
    name: str
    """CLASS/FILE, or synset/model/view."""
    label: int
    predicted: int
    cross_entropy: float


@dataclass(frozen=True)
class ClassMeans:
    """Means over `num_samples` pictures, or over classes."""

    num_samples: int
    accuracy: float
    """Share of pictures whose own class has the highest logit."""
    cross_entropy: float


@dataclass(frozen=True)
class ClassificationResult:
    """The records of all pictures, by dataset index, and the means over them."""

    classes: tuple[str, ...]
    records: tuple[PictureRecord, ...]

    def by_class(self) -> dict[str, ClassMeans]:
        """Return the means over each class's pictures, of the classes that have any."""
        grouped: dict[int, list[PictureRecord]] = {}
        for record in sorted(self.records, key=lambda record: record.label):
            grouped.setdefault(record.label, []).append(record)
        return {self.classes[label]: _means_of_records(records) for label, records in grouped.items()}

    def mean_of_samples(self) -> ClassMeans:
        """Return the means over all pictures, each with the same weight."""
        return _means_of_records(self.records)

    def mean_of_classes(self) -> ClassMeans:
        """Return the means over the classes' means, each class with the same weight."""
        means = list(self.by_class().values())
        return ClassMeans(
            len(self.records), fmean([mean.accuracy for mean in means]), fmean([mean.cross_entropy for mean in means])
        )

    def confusion(self) -> npt.NDArray[np.int64]:
        """Count the pictures of each class (rows) that are taken for each class (columns)."""
        counts = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        for record in self.records:
            counts[record.label, record.predicted] += 1
        return counts


@dataclass(frozen=True)
class ConstantClass:
    """What naming the training part's most frequent class for every picture reaches."""

    name: str
    accuracy_mean_of_samples: float
    accuracy_mean_of_classes: float


def classify(
    model: nn.Module,
    dataset: LabelledPictures,
    indices: npt.NDArray[np.int64],
    *,
    comm: Communicator,
    device: torch.device,
    dtype: str = "float32",
    batch_size: int = 16,
    report: Callable[[str], None] | None = None,
) -> ClassificationResult:
    """Measure the network on pictures `indices`, cropped at their centre.

    Every rank must call this, with the same arguments but `device` and `report`, and gets the same result; see
    `measure_samples`. `dtype` is one of `precision.DTYPES`. With `report`, this rank's progress is shown.

    Raises:
        ValueError: no pictures.
    """
    if len(indices) == 0:
        raise ValueError("there is no picture to evaluate: this part of the data is empty")

    def measure(batch: Batch) -> Callable[[], list[PictureRecord]]:
        images_BCHW, labels_B, _ = prepare_labelled(batch, dataset.framing, device, weights_dtype(dtype))
        with autocast(dtype, device):
            logits_BK = model(images_BCHW)
        logits_BK = logits_BK if logits_BK.dtype == torch.float64 else logits_BK.float()
        entropy_B = nn.functional.cross_entropy(logits_BK, labels_B, reduction="none")
        columns = (batch.indices, labels_B, logits_BK.argmax(dim=1), entropy_B.double())
        rows = zip(batch.samples, *(column.tolist() for column in columns), strict=True)
        records = [PictureRecord(index, name, label, predicted, loss) for name, index, label, predicted, loss in rows]
        return lambda: records

    batches = evaluation_batches(dataset, indices, 1, batch_size, comm.rank, comm.size, pin_for=device)
    records = measure_samples(
        model,
        batches,
        measure,
        num_samples=len(indices),
        title="evaluating",
        comm=comm,
        device=device,
        report=report,
    )
    return ClassificationResult(dataset.classes, records)


def constant_class(
    dataset: LabelledPictures, train_indices: npt.NDArray[np.int64], test_indices: npt.NDArray[np.int64]
) -> ConstantClass:
    """Measure the constant prediction: the most frequent class of the training part, the first of equals."""
    num_classes = len(dataset.classes)
    trained_K = np.bincount(dataset.labels_N[train_indices], minlength=num_classes)
    tested_K = np.bincount(dataset.labels_N[test_indices], minlength=num_classes)
    best = int(trained_K.argmax())
    accuracy_of_classes = float(tested_K[best] > 0) / int((tested_K > 0).sum())
    return ConstantClass(dataset.classes[best], int(tested_K[best]) / len(test_indices), accuracy_of_classes)


def _means_of_records(records: Sequence[PictureRecord]) -> ClassMeans:
    num_right = sum(record.predicted == record.label for record in records)
    return ClassMeans(len(records), num_right / len(records), fmean([record.cross_entropy for record in records]))
