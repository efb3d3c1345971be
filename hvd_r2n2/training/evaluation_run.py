"""A checkpoint's whole evaluation: each number of views, its threshold, the constant baseline."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.models import Network, load_weights
from hvd_r2n2.training.checkpoint import Checkpoint, find_checkpoint, open_checkpoint, read_checkpoint
from hvd_r2n2.training.consistency import check_same_start
from hvd_r2n2.training.data import data_root
from hvd_r2n2.training.evaluation import (
    CANDIDATE_THRESHOLDS,
    RELEASED_THRESHOLD,
    EvaluationResult,
    choose_threshold,
    constant_prediction_iou,
    evaluate,
)
from hvd_r2n2.training.evaluation_report import EvaluatedThreshold, EvaluationReport
from hvd_r2n2.training.metrics import require_f_score_libraries
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.task import EvaluationOptions, Report

_REPLACED = "a run that is still training replaces its checkpoints by newer ones (start again, or with a copy of one)"


def run_directory(checkpoint: Checkpoint) -> Path:
    """Return the directory of the run that a checkpoint is of, or its own where it lies apart from its run."""
    folder = checkpoint.path.parent
    return folder.parent if folder.name == "checkpoints" else checkpoint.path


def is_of_run(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is the one that its run is known by: the best, or the last where none is the best."""
    try:
        return find_checkpoint(run_directory(checkpoint)) == checkpoint.path.resolve()
    except ValueError:  # it was copied from its run
        return False


def open_on_all_ranks(path: Path, comm: Communicator, warn: Callable[[str], None]) -> Checkpoint:
    """Read the checkpoint that a user means (see `open_checkpoint`); every rank must call it.

    Rank 0 chooses and `warn`s, and all read the same one: the run may still be training, and its best one change.

    Raises:
        ValueError: there is none, or this rank cannot read the one that rank 0 has chosen; or it is gone.
        JobError: the ranks find other files there.
    """
    if comm.is_root:
        checkpoint = open_checkpoint(path, warn)
        comm.broadcast_object(checkpoint.path)
    else:
        chosen = comm.broadcast_object(path)
        with _explaining_absence(
            chosen, f"is not there on rank {comm.rank}: all ranks must see the same files, or {_REPLACED}"
        ):
            checkpoint = read_checkpoint(chosen)
    with _explaining_absence(checkpoint.path, f"is not there any more: {_REPLACED}"):
        digest = checkpoint.digest
    check_same_start(comm, {f"the checkpoint {checkpoint.path.name}": digest})
    return checkpoint


def load_network(checkpoint: Checkpoint, device: torch.device, dtype: str = "float32") -> Network:
    """Return a checkpoint's network with its weights, on the device and in evaluation mode.

    `dtype` is one of `precision.DTYPES`.

    Raises:
        ValueError: the weights do not fit the configuration beside them, or are gone.
    """
    # The file that training started from is not needed any more, and may be gone.
    model = build_model(replace(checkpoint.config.model, weights=None), seed=0).to(weights_dtype(dtype))
    with _explaining_absence(checkpoint.path, f"is not there any more: {_REPLACED}"):
        load_weights(model, checkpoint.weights_path)
    return model.to(device).eval()


@contextmanager
def _explaining_absence(path: Path, reason: str) -> Iterator[None]:
    """Turn an error of reading a checkpoint into one that gives the reason, if it is not there."""
    try:
        yield
    except (ValueError, OSError) as error:
        if path.exists():
            raise
        raise ValueError(f"{path} {reason}") from error


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    model: nn.Module,
    dataset: Dataset,
    options: EvaluationOptions,
    config: Config,
    *,
    comm: Communicator,
    device: torch.device,
    report: Report | None,
) -> EvaluationReport | None:
    """Measure everything that was asked; every rank must call it, rank 0 gets the report and the others None.

    `config` says where the data are, the size of a batch and the type.

    Raises:
        ValueError: what was asked cannot be measured on these data.
    """
    all_views = options.num_views or (config.evaluation.views,)
    _check(options, all_views, dataset)
    indices = dataset.validation if options.part == "validation" else dataset.test
    measure = partial(
        evaluate,
        model,
        dataset,
        comm=comm,
        device=device,
        dtype=config.train.dtype,
        batch_size=config.evaluation.batch_size,
        report=report,
    )

    measured = [_measure(measure, dataset, indices, options, num_views) for num_views in all_views]
    if not comm.is_root:
        return None
    has_training_part = len(dataset.train) > 0
    return EvaluationReport(
        checkpoint=str(checkpoint.path),
        step=checkpoint.step,
        network=f"{checkpoint.config.model.name}, width {checkpoint.config.model.width:g}",
        data=str(data_root(config.data).resolve()),
        split=dataset.split_name,
        part=options.part,
        dtype=config.train.dtype,
        results=tuple(result for result, _ in measured),
        thresholds=tuple(threshold for _, threshold in measured),
        constant_prediction=constant_prediction_iou(dataset, dataset.train, indices) if has_training_part else None,
    )


def _measure(
    measure: Callable[..., EvaluationResult],
    dataset: Dataset,
    indices: npt.NDArray[np.int64],
    options: EvaluationOptions,
    num_views: int,
) -> tuple[EvaluationResult, EvaluatedThreshold]:
    """Choose the threshold for a number of views and `measure` the samples `indices`, those of `options.part`."""
    if options.threshold is not None:
        threshold = EvaluatedThreshold(options.threshold, "given")
    elif len(dataset.validation) == 0:
        threshold = EvaluatedThreshold(RELEASED_THRESHOLD, "the released code's, as there is no validation part")
    else:
        is_itself = options.part == "validation"
        which = "this part itself" if is_itself else "the validation part"
        validated = measure(dataset.validation, num_views=num_views, thresholds=CANDIDATE_THRESHOLDS)
        threshold = EvaluatedThreshold(choose_threshold(validated), f"chosen on {which}, for each number of views")
        if is_itself and not options.f_score:
            return validated, threshold  # only F-scores need the threshold first
    result = measure(
        indices,
        num_views=num_views,
        thresholds=(*CANDIDATE_THRESHOLDS, threshold.value),
        f_score=options.f_score,
        f_score_threshold=threshold.value,
    )
    return result, threshold


def _check(options: EvaluationOptions, all_views: Sequence[int], dataset: Dataset) -> None:
    """Raise a ValueError for what cannot be measured on these data, before any time is spent."""
    for num_views in all_views:
        if not 1 <= num_views <= dataset.num_views:
            raise ValueError(f"{num_views} views cannot be evaluated: each sample has {dataset.num_views} pictures")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise ValueError(f"threshold {options.threshold:g} must be between 0 and 1")
    if len(dataset.validation if options.part == "validation" else dataset.test) == 0:
        raise ValueError(f"the {options.part} part of split {dataset.split_name} is empty: choose another --part")
    if options.f_score:
        require_f_score_libraries()
