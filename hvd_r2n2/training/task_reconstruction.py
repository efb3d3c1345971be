"""The task of 3D-R2N2's networks: from pictures of an object to its occupancy grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.loader import Batch, prepare_batch
from hvd_r2n2.models import voxel_loss_stage
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.checkpoint import Checkpoint
from hvd_r2n2.training.data import ensure_data, head_start_s
from hvd_r2n2.training.evaluation import EvaluationResult, evaluate
from hvd_r2n2.training.evaluation_report import EvaluationReport
from hvd_r2n2.training.evaluation_run import evaluate_checkpoint
from hvd_r2n2.training.showcase import show_samples
from hvd_r2n2.training.task import EvaluationOptions, Findings, Part, Report, Task, Validation


class ReconstructionTask(Task[Dataset]):
    """Train and measure a network that gives `logits` B×2×D×D×D; its target is `occupancy` B×D×D×D."""

    def open_data(self, communicator: Communicator, report: Report) -> Dataset:
        """Return the models with their pictures and grids."""
        root = ensure_data(self.config, communicator, report)
        resolution, head_start = self.config.model.voxel_resolution, head_start_s(communicator)
        dataset = open_dataset(self.config.data, root, resolution, report, head_start_s=head_start)
        views = self.config.evaluation.views
        if views > dataset.num_views:
            raise ValueError(f"evaluation.views: {views}, but each sample has {dataset.num_views} views")
        return dataset

    def prepare(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return `images` V×B×3×127×127 in [0, 1] and `occupancy` B×D×D×D uint8."""
        images_VBCHW, occupancy_BDDD = prepare_batch(batch, device, dtype)
        return {"images": images_VBCHW, "occupancy": occupancy_BDDD}

    def loss_stage(self) -> Stage:
        """Return the mean cross-entropy of the voxels."""
        return voxel_loss_stage()

    def validate(self, model: nn.Module, dataset: Dataset, comm: Communicator, device: torch.device) -> Validation:
        """Measure the IoU, whose mean of samples is the score."""
        settings = self.config.evaluation
        result = evaluate(
            model,
            dataset,
            dataset.validation,
            num_views=settings.views,
            thresholds=(settings.threshold,),
            comm=comm,
            device=device,
            dtype=self.config.train.dtype,
            batch_size=settings.batch_size,
        )
        samples, categories = result.mean_of_samples(), result.mean_of_categories()
        text = (
            f"({samples.num_samples} samples, {result.num_views} views): IoU {samples.iou[0]:.4f} (mean of samples), "
            f"{categories.iou[0]:.4f} (mean of categories)"
        )
        return Validation(samples.iou[0], _validation_figures(result), text)

    def evaluate(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        dataset: Dataset,
        options: EvaluationOptions,
        comm: Communicator,
        device: torch.device,
        report: Report | None,
    ) -> EvaluationReport | None:
        """Measure IoU and more by number of views, beside the best constant prediction."""
        return evaluate_checkpoint(
            checkpoint, model, dataset, options, self.config, comm=comm, device=device, report=report
        )

    def show(
        self,
        part: Part,
        model: nn.Module,
        dataset: Dataset,
        device: torch.device,
        log: RunLog,
        step: int,
        findings: Findings | None = None,
    ) -> None:
        """Record inputs, truth and reconstruction, as a picture and as meshes."""
        threshold = self.config.evaluation.threshold
        if isinstance(findings, EvaluationReport):
            threshold = findings.thresholds[0].value
        indices = dataset.test if part == "test" else dataset.validation
        show_samples(part, model, dataset, indices, self.config, device, log, step, threshold)


def _validation_figures(result: EvaluationResult) -> dict[str, float]:
    """Return the figures of a validation by the names they are recorded under."""
    samples, by_category = result.mean_of_samples(), result.by_category()
    return {
        "validation/iou_mean_of_samples": samples.iou[0],
        "validation/iou_mean_of_categories": result.mean_of_categories().iou[0],
        "validation/cross_entropy": samples.cross_entropy,
        "validation/average_precision": samples.average_precision,
        **{f"validation_iou/{category}": means.iou[0] for category, means in by_category.items()},
    }
