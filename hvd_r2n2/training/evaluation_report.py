"""What an evaluation reports: the paper's table as text, everything as JSON, one row a mean as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hvd_r2n2.training.evaluation import (
    REPORTED_THRESHOLDS,
    ConstantPrediction,
    EvaluationResult,
    Means,
)

_MEAN_OF_CATEGORIES = "mean of categories"
_MEAN_OF_SAMPLES = "mean of samples"


@dataclass(frozen=True)
class EvaluatedThreshold:
    """The threshold of one number of views and where it comes from."""

    value: float
    source: str
    """For people: `chosen on the validation part, for each number of views`, `given`, ..."""


@dataclass(frozen=True)
class EvaluationReport:
    """The results for several numbers of views, and what must be known to read them."""

    checkpoint: str
    step: int
    network: str
    data: str
    split: str
    part: str
    dtype: str
    results: tuple[EvaluationResult, ...]
    thresholds: tuple[EvaluatedThreshold, ...]
    """One for each of `results`."""
    constant_prediction: ConstantPrediction | None
    """None where there is no training part to take it from."""

    def to_text(self) -> str:
        """Return the tables for the screen."""
        return "\n\n".join((self._facts(), self._category_table(), self._metric_table(), self._notes()))

    def to_json(self) -> str:
        """Return everything as JSON text; the same text on any number of ranks."""
        constant = self.constant_prediction
        content = {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "network": self.network,
            "data": self.data,
            "split": self.split,
            "part": self.part,
            "num_samples": len(self.results[0].records),
            "dtype": self.dtype,
            "constant_prediction": None
            if constant is None
            else {
                "iou_mean_of_samples": constant.iou_mean_of_samples,
                "iou_mean_of_categories": constant.iou_mean_of_categories,
                "threshold": constant.threshold,
                "threshold_source": f"the best on the {self.part} part itself",
            },
            "results": [
                {
                    "num_views": result.num_views,
                    "threshold": threshold.value,
                    "threshold_source": threshold.source,
                    **{key: _means_to_mapping(result, means, threshold.value) for key, means in _totals(result)},
                    "categories": {
                        name: _means_to_mapping(result, means, threshold.value)
                        for name, means in result.by_category().items()
                    },
                }
                for result, threshold in self._columns()
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return one row for each number of views and category, and for each of the two means."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        ious = [f"iou_at_{value:.2f}" for value in REPORTED_THRESHOLDS]
        others = ("average_precision", "cross_entropy", "f_score_1_percent")
        writer.writerow(["num_views", "category", "num_samples", "threshold", "iou", *ious, *others])
        for result, threshold in self._columns():
            positions = [result.position_of(value) for value in (threshold.value, *REPORTED_THRESHOLDS)]
            for name, means in _rows(result):
                numbers = [means.iou[position] for position in positions]
                numbers += [means.average_precision, means.cross_entropy]
                f_score = "" if means.f_score is None else f"{means.f_score:.6f}"
                written = [f"{number:.6f}" for number in numbers]
                writer.writerow([result.num_views, name, means.num_samples, f"{threshold.value:g}", *written, f_score])
        return file.getvalue()

    def summary(self) -> dict[str, object]:
        """Return the figures that a run's summary.json holds, of the first number of views."""
        result, threshold, constant = self.results[0], self.thresholds[0], self.constant_prediction
        position = result.position_of(threshold.value)
        return {
            "iou": result.mean_of_samples().iou[position],
            "constant_iou": constant and constant.iou_mean_of_samples,
            "iou_mean_of_categories": result.mean_of_categories().iou[position],
            "constant_iou_mean_of_categories": constant and constant.iou_mean_of_categories,
            "views": result.num_views,
            "threshold": threshold.value,
            "split": self.split,
            "num_test_samples": len(result.records),
        }

    def headline(self) -> str:
        """Return the one line that ends a run."""
        result, threshold, constant = self.results[0], self.thresholds[0], self.constant_prediction
        iou = result.mean_of_samples().iou[result.position_of(threshold.value)]
        beside = (
            "" if constant is None else f"; the best constant prediction reaches {constant.iou_mean_of_samples:.4f}"
        )
        return (
            f"{self.part} part ({len(result.records)} samples, {result.num_views} views, checkpoint of step "
            f"{self.step}, threshold {threshold.value:g} {threshold.source}): IoU {iou:.4f}{beside} (means of samples)"
        )

    def _columns(self) -> Iterable[tuple[EvaluationResult, EvaluatedThreshold]]:
        return zip(self.results, self.thresholds, strict=True)

    def _facts(self) -> str:
        return (
            f"{self.network}, {self.checkpoint} at step {self.step}, {self.dtype}\n"
            f"{self.part} part of split {self.split}, {self.data}: {len(self.results[0].records)} samples"
        )

    def _category_table(self) -> str:
        head = ["IoU by number of views", "samples", *(str(result.num_views) for result in self.results)]
        named = [dict(_rows(result)) for result in self.results]
        rows = [
            [name, str(means.num_samples)]
            + [
                f"{column[name].iou[result.position_of(threshold.value)]:.4f}"
                for column, (result, threshold) in zip(named, self._columns(), strict=True)
            ]
            for name, means in named[0].items()
        ]
        rows.append(["at threshold", "", *(f"{threshold.value:g}" for threshold in self.thresholds)])
        return align([head, *rows], rules_before=(1, len(rows) - 2, len(rows)))

    def _metric_table(self) -> str:
        rows = [["by number of views", "", *(str(result.num_views) for result in self.results)]]
        for value in REPORTED_THRESHOLDS:
            rows += self._metric_rows(f"IoU at {value:g}", [_iou_column(result, value) for result in self.results])
        totals = [[means for _, means in _totals(result)] for result in self.results]
        rows += self._metric_rows("average precision", [[m.average_precision for m in pair] for pair in totals])
        rows += self._metric_rows("cross-entropy", [[m.cross_entropy for m in pair] for pair in totals])
        if all(result.f_score_threshold is not None for result in self.results):
            rows += self._metric_rows("F-score at 1 %", [[m.f_score or 0.0 for m in pair] for pair in totals])
        return align(rows, rules_before=(1,))

    def _metric_rows(self, name: str, columns: Sequence[Sequence[float]]) -> list[list[str]]:
        return [
            [name if which == 0 else "", label, *(f"{column[which]:.4f}" for column in columns)]
            for which, label in enumerate((_MEAN_OF_CATEGORIES, _MEAN_OF_SAMPLES))
        ]

    def _notes(self) -> str:
        sources = sorted({threshold.source for threshold in self.thresholds})
        lines = [f"threshold: {'; '.join(sources)}"]
        constant = self.constant_prediction
        if constant is None:
            lines.append("constant prediction: none, there is no training part to take it from")
        else:
            lines.append(
                "constant prediction (the training part's mean shape, cut at "
                f"{constant.threshold:g}, the best for the {self.part} part): IoU "
                f"{constant.iou_mean_of_categories:.4f} mean of categories, {constant.iou_mean_of_samples:.4f} mean of "
                "samples"
            )
        return "\n".join(lines)


def _totals(result: EvaluationResult) -> list[tuple[str, Means]]:
    return [("mean_of_categories", result.mean_of_categories()), ("mean_of_samples", result.mean_of_samples())]


def _rows(result: EvaluationResult) -> list[tuple[str, Means]]:
    categories, samples = result.mean_of_categories(), result.mean_of_samples()
    return [*result.by_category().items(), (_MEAN_OF_CATEGORIES, categories), (_MEAN_OF_SAMPLES, samples)]


def _iou_column(result: EvaluationResult, threshold: float) -> list[float]:
    position = result.position_of(threshold)
    return [means.iou[position] for _, means in _totals(result)]


def _means_to_mapping(result: EvaluationResult, means: Means, threshold: float) -> dict[str, object]:
    return {
        "num_samples": means.num_samples,
        "iou": means.iou[result.position_of(threshold)],
        "iou_at": {f"{value:.2f}": iou for value, iou in zip(result.thresholds, means.iou, strict=True)},
        "average_precision": means.average_precision,
        "cross_entropy": means.cross_entropy,
        "f_score_1_percent": means.f_score,
    }


def align(rows: Sequence[Sequence[str]], rules_before: Sequence[int]) -> str:
    """Lay rows out in columns, the first to the left and numbers to the right, with rules before some rows."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        if number in rules_before:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = [
            cell.ljust(width) if column == 0 or not cell[:1].isdigit() else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
