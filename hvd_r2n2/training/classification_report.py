"""What the evaluation of a classification reports: a table by class as text and CSV, everything as JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass

from hvd_r2n2.training.classification import ClassificationResult, ClassMeans, ConstantClass
from hvd_r2n2.training.evaluation_report import align

_NO_OTHER = "–"


@dataclass(frozen=True)
class ClassificationReport:
    """The result, and what must be known to read it."""

    checkpoint: str
    step: int
    network: str
    data: str
    split: str
    part: str
    dtype: str
    result: ClassificationResult
    constant_prediction: ConstantClass | None
    """None where there is no training part to take it from."""

    def to_text(self) -> str:
        """Return the table for the screen."""
        facts = (
            f"{self.network}, {self.checkpoint} at step {self.step}, {self.dtype}\n"
            f"{self.part} part of split {self.split}, {self.data}: {len(self.result.records)} pictures"
        )
        rows = [["class", "pictures", "accuracy", "cross-entropy", "most often taken for"]]
        rows += [[*_cells(name, means), self._taken_for(name)] for name, means in self.result.by_class().items()]
        rows += [[*_cells(name, means), ""] for name, means in self._totals()]
        table = align(rows, rules_before=(1, len(rows) - 2))
        return "\n\n".join((facts, table, self._note()))

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
            "num_samples": len(self.result.records),
            "dtype": self.dtype,
            "constant_prediction": None if constant is None else asdict(constant),
            "mean_of_samples": asdict(self.result.mean_of_samples()),
            "mean_of_classes": asdict(self.result.mean_of_classes()),
            "classes": {name: asdict(means) for name, means in self.result.by_class().items()},
            "confusion": {
                "meaning": "rows: the class of the picture; columns: the class it is taken for; in this order",
                "classes": list(self.result.classes),
                "counts": self.result.confusion().tolist(),
            },
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return one row for each class, and for each of the two means."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "num_samples", "accuracy", "cross_entropy"])
        for name, means in (*self.result.by_class().items(), *self._totals()):
            writer.writerow([name, means.num_samples, f"{means.accuracy:.6f}", f"{means.cross_entropy:.6f}"])
        return file.getvalue()

    def summary(self) -> dict[str, object]:
        """Return the figures that a run's summary.json holds."""
        samples, constant = self.result.mean_of_samples(), self.constant_prediction
        return {
            "accuracy": samples.accuracy,
            "constant_accuracy": constant and constant.accuracy_mean_of_samples,
            "accuracy_mean_of_classes": self.result.mean_of_classes().accuracy,
            "constant_accuracy_mean_of_classes": constant and constant.accuracy_mean_of_classes,
            "cross_entropy": samples.cross_entropy,
            "num_classes": len(self.result.classes),
            "split": self.split,
            "num_test_samples": len(self.result.records),
        }

    def headline(self) -> str:
        """Return the one line that ends a run."""
        constant = self.constant_prediction
        beside = "" if constant is None else f"; always {constant.name}: {constant.accuracy_mean_of_samples:.1%}"
        return (
            f"{self.part} part ({len(self.result.records)} pictures, checkpoint of step {self.step}): "
            f"{self.result.mean_of_samples().accuracy:.1%} named right{beside}"
        )

    def _totals(self) -> list[tuple[str, ClassMeans]]:
        return [
            ("mean of classes", self.result.mean_of_classes()),
            ("mean of pictures", self.result.mean_of_samples()),
        ]

    def _taken_for(self, name: str) -> str:
        """Return the class that most of a class's pictures are wrongly taken for, and how many."""
        number = self.result.classes.index(name)
        counts_K = self.result.confusion()[number]
        counts_K[number] = 0
        most = int(counts_K.argmax())
        return f"{self.result.classes[most]} ({counts_K[most]})" if counts_K[most] else _NO_OTHER

    def _note(self) -> str:
        constant = self.constant_prediction
        if constant is None:
            return "constant prediction: none, there is no training part to take it from"
        return (
            f"constant prediction ({constant.name} for every picture, the most frequent class of the training part): "
            f"accuracy {constant.accuracy_mean_of_classes:.4f} mean of classes, "
            f"{constant.accuracy_mean_of_samples:.4f} mean of pictures"
        )


def _cells(name: str, means: ClassMeans) -> list[str]:
    return [name, str(means.num_samples), f"{means.accuracy:.4f}", f"{means.cross_entropy:.4f}"]
