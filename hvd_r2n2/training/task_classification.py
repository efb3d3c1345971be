"""The task of AlexNet: from a picture to the name of its class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.labelled import PICTURE_FRAMING, LabelledPictures, LabelledRenderings
from hvd_r2n2.data.loader import Batch, prepare_labelled
from hvd_r2n2.data.picture_folder import open_picture_folder
from hvd_r2n2.models import NETWORKS, class_loss_stage
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.checkpoint import Checkpoint
from hvd_r2n2.training.classification import ClassificationResult, classify, constant_class
from hvd_r2n2.training.classification_report import ClassificationReport
from hvd_r2n2.training.data import data_root, ensure_data, head_start_s, is_of_models
from hvd_r2n2.training.showcase import show_classes
from hvd_r2n2.training.task import EvaluationOptions, Findings, Part, Report, Task, Validation


class ClassificationTask(Task[LabelledPictures]):
    """Train and measure a network that gives `logits` B×K of K classes; its target is `labels` B."""

    def open_data(self, communicator: Communicator, report: Report) -> LabelledPictures:
        """Return the pictures of a folder with a folder a class, or the renderings of models by category."""
        config, classes = self.config.data, self.config.data.categories
        assert classes is not None, "the settings are not resolved"
        root = ensure_data(self.config, communicator, report)
        if is_of_models(config):
            resolution, head_start = self.config.model.voxel_resolution, head_start_s(communicator)
            return LabelledRenderings(open_dataset(config, root, resolution, report, head_start_s=head_start), classes)
        return open_picture_folder(config, root, classes, report, head_start_s(communicator))

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return `images` B×3×227×227 from -128 to 127, `labels` B, and in training the dropout masks B×F (0 or 2)."""
        images_BCHW, labels_B, masks = prepare_labelled(batch, PICTURE_FRAMING, device, dtype)
        return {"images": images_BCHW, "labels": labels_B, **masks}

    def loss_stage(self) -> Stage:
        """Return the mean cross-entropy of the pictures."""
        return class_loss_stage()

    def validate(
        self, model: nn.Module, dataset: LabelledPictures, comm: Communicator, device: torch.device
    ) -> Validation:
        """Measure the accuracy, whose mean of pictures is the score."""
        result = classify(
            model,
            dataset,
            dataset.validation,
            comm=comm,
            device=device,
            dtype=self.config.train.dtype,
            batch_size=self.config.evaluation.batch_size,
        )
        samples, classes = result.mean_of_samples(), result.mean_of_classes()
        text = (
            f"({samples.num_samples} pictures): accuracy {samples.accuracy:.4f} (mean of pictures), "
            f"{classes.accuracy:.4f} (mean of classes), cross-entropy {samples.cross_entropy:.4f}"
        )
        return Validation(samples.accuracy, _validation_figures(result), text)

    def evaluate(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        dataset: LabelledPictures,
        options: EvaluationOptions,
        comm: Communicator,
        device: torch.device,
        report: Report | None,
    ) -> ClassificationReport | None:
        """Measure accuracy and cross-entropy by class, beside the most frequent class for every picture."""
        indices = dataset.validation if options.part == "validation" else dataset.test
        if len(indices) == 0:
            raise ValueError(f"the {options.part} part of split {dataset.split_name} is empty: choose another --part")
        result = classify(
            model,
            dataset,
            indices,
            comm=comm,
            device=device,
            dtype=self.config.train.dtype,
            batch_size=self.config.evaluation.batch_size,
            report=report,
        )
        if not comm.is_root:
            return None
        network = checkpoint.config.model
        return ClassificationReport(
            checkpoint=str(checkpoint.path),
            step=checkpoint.step,
            network=f"{network.name}, width {network.width:g}, {network.num_classes} classes",
            data=str(data_root(self.config.data).resolve()),
            split=dataset.split_name,
            part=options.part,
            dtype=self.config.train.dtype,
            result=result,
            constant_prediction=constant_class(dataset, dataset.train, indices) if len(dataset.train) else None,
        )

    def show(
        self,
        part: Part,
        model: nn.Module,
        dataset: LabelledPictures,
        device: torch.device,
        log: RunLog,
        step: int,
        findings: Findings | None = None,
    ) -> None:
        """Record pictures under the names that the network gives them."""
        indices = dataset.test if part == "test" else dataset.validation
        show_classes(part, model, dataset, indices, self.config, device, log, step)

    def _dropout_masks(self) -> Mapping[str, int]:
        model = self.config.model
        masks: dict[str, int] = NETWORKS[model.name].options(width=model.width, cross=model.cross).dropout_masks
        return masks


def _validation_figures(result: ClassificationResult) -> dict[str, float]:
    """Return the figures of a validation by the names they are recorded under."""
    samples, by_class = result.mean_of_samples(), result.by_class()
    return {
        "validation/accuracy_mean_of_samples": samples.accuracy,
        "validation/accuracy_mean_of_classes": result.mean_of_classes().accuracy,
        "validation/cross_entropy": samples.cross_entropy,
        **{f"validation_accuracy/{name}": means.accuracy for name, means in by_class.items()},
    }
