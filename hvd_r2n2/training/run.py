"""One training run from start to end: its folder, what it goes on from, and its last evaluation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import hvd_r2n2
from hvd_r2n2.comm import Communicator
from hvd_r2n2.config import Config, to_yaml
from hvd_r2n2.models import load_weights
from hvd_r2n2.telemetry import RunLog
from hvd_r2n2.training.checkpoint import Checkpoint, TrainingState, find_newest, read_checkpoint, restore
from hvd_r2n2.training.consistency import broadcast_parameters, check_equal, check_same_start, parameter_digest
from hvd_r2n2.training.evaluation import CANDIDATE_THRESHOLDS, choose_threshold, constant_prediction_iou
from hvd_r2n2.training.loop import Run, evaluate_part, train_steps
from hvd_r2n2.training.optimizer import build_optimizer
from hvd_r2n2.training.setup import build_model, choose_device, open_data
from hvd_r2n2.training.step import MODEL_DTYPES, share_of_batch

# What a resumed run may not change: the network, the samples and their order.
_FIXED_SECTIONS = ("model", "data")
_FIXED_KEYS = ("train.batch_size", "train.seed", "train.min_views", "train.max_views", "train.dtype", "optimizer.name")
_FREE_KEYS = (
    "data.loader_threads",
    "data.prefetch_batches",
    "data.cache_dir",
    "data.root",
    "model.weights",
    "model.form",
)


def train(config: Config, folder: Path, communicator: Communicator, *, resume: bool) -> None:
    """Train in the run directory `folder`, from the newest whole checkpoint there if `resume`; every rank calls it.

    Raises:
        ValueError: settings, data or checkpoint do not fit.
        OSError: a file cannot be read or written.
        RuntimeError: the ranks are not the same, or training met a loss that is not finite.
    """
    share_of_batch(config, communicator.size)
    checkpoint = _claim_folder(config, folder, communicator, resume)
    start_step = checkpoint.step if checkpoint else 0
    log = RunLog(
        folder,
        config.train.steps,
        start_step,
        is_root=communicator.is_root,
        is_under_launcher=communicator.size > 1,
        tensorboard=config.log.tensorboard,
    )
    try:
        run, state = _prepare(config, folder, communicator, checkpoint, log)
        if state.step < config.train.steps:
            state = train_steps(run, state)
        else:
            log.line(f"all {config.train.steps} steps are done (train.steps); only the evaluation is made again")
        _finish(run, state)
    finally:
        log.close()


def _claim_folder(config: Config, folder: Path, communicator: Communicator, resume: bool) -> Checkpoint | None:
    """Make the run directory on rank 0, and find the checkpoint to go on from; the same answer on every rank."""
    is_old = (folder / "config.yaml").exists()
    is_old = communicator.broadcast_object(is_old)
    if is_old and not resume:
        raise ValueError(f"{folder}: holds a run already (go on with --resume, or choose another --out)")
    found = None
    if communicator.is_root:
        folder.mkdir(parents=True, exist_ok=True)
        newest = find_newest(folder / "checkpoints", lambda text: print(f"warning: {text}", flush=True))
        if newest is not None:
            _check_unchanged(newest.config, config, folder)
            found = newest.path.name
        partial = folder / ".config.partial"
        partial.write_text(to_yaml(config), encoding="utf-8")
        partial.replace(folder / "config.yaml")
    found = communicator.broadcast_object(found)
    return None if found is None else read_checkpoint(folder / "checkpoints" / found)


def _check_unchanged(old: Config, new: Config, folder: Path) -> None:
    fixed = [f"{section}.{f.name}" for section in _FIXED_SECTIONS for f in fields(getattr(new, section))]
    problems = []
    for dotted in (*(key for key in fixed if key not in _FREE_KEYS), *_FIXED_KEYS):
        section, key = dotted.split(".")
        before, now = getattr(getattr(old, section), key), getattr(getattr(new, section), key)
        if before != now:
            problems.append(f"{dotted}: the run in {folder} has {before}, not {now}")
    if problems:
        raise ValueError("--resume: " + "; ".join(problems) + " (use its value, or start anew with another --out)")


def _prepare(
    config: Config, folder: Path, communicator: Communicator, checkpoint: Checkpoint | None, log: RunLog
) -> tuple[Run, TrainingState]:
    log.line(
        f"hvd_r2n2 {hvd_r2n2.__version__}, {communicator.size} rank(s), {communicator.description}, run in {folder}"
    )
    device = choose_device(config.train, communicator, log.line)
    dataset = open_data(config, communicator, log.line)
    check_same_start(
        communicator,
        {
            "the code of hvd_r2n2": _code_digest(),
            "the resolved config": hashlib.sha256(to_yaml(config).encode()).hexdigest(),
            "the data": dataset.content_digest,
        },
    )
    log.line(dataset.summary())
    if not len(dataset.train):
        raise ValueError(f"data.split {config.data.split}: the training part is empty, more models are needed")
    if not len(dataset.validation):
        log.line("the validation part is empty: no checkpoint will be called the best")
    model = build_model(config.model, config.train.seed).to(device, MODEL_DTYPES[config.train.dtype])
    optimizer = build_optimizer(config.optimizer, model)
    if checkpoint is None:
        state = TrainingState(step=0, samples_seen=0, train_seconds=0.0)
        broadcast_parameters(communicator, model)
    else:
        state = checkpoint.state
        restore(checkpoint, model, optimizer)
        log.line(f"going on from {checkpoint.path.name}")
    check_equal(communicator, "parameters and optimizer at the start", parameter_digest(model, optimizer))
    count = sum(parameter.numel() for parameter in model.parameters())
    log.line(
        f"{config.model.name}, preset {config.model.preset}, width {config.model.width:g}: {count:,} parameters; "
        f"global batch {config.train.batch_size} = {communicator.size} rank(s) x {config.train.accumulation} "
        f"micro-batch(es) x {config.train.batch_size // communicator.size // config.train.accumulation}; "
        f"steps {state.step} to {config.train.steps}, {config.train.dtype}"
    )
    return Run(config, folder, communicator, device, dataset, model, optimizer, log), state


def _finish(run: Run, state: TrainingState) -> None:
    """Evaluate the best checkpoint on the test part beside the best constant prediction; write summary.json."""
    best = run.folder / "checkpoints" / "best"
    if state.best_step is not None:
        load_weights(run.model, best / "model.safetensors")
        run.log.line(f"test part, with the best checkpoint on the validation part (step {state.best_step}):")
    else:
        run.log.line("test part, with the last checkpoint:")
    if not len(run.dataset.test):
        run.log.line("the test part is empty: no evaluation")
        return
    threshold = run.config.evaluation.threshold
    if len(run.dataset.validation):
        threshold = choose_threshold(evaluate_part(run, run.dataset.validation, CANDIDATE_THRESHOLDS))
    result = evaluate_part(run, run.dataset.test, (threshold,))
    constant = constant_prediction_iou(run.dataset, run.dataset.train, run.dataset.test)
    samples, categories = result.mean_of_samples(), result.mean_of_categories()
    run.log.line(
        f"IoU {samples.iou[0]:.4f} (mean of samples), {categories.iou[0]:.4f} (mean of categories), {result.num_views} "
        f"views, {samples.num_samples} samples, threshold {threshold:g}; the best constant prediction reaches "
        f"{constant.iou_mean_of_samples:.4f}, {constant.iou_mean_of_categories:.4f}"
    )
    if run.communicator.is_root:
        summary = {
            "iou": samples.iou[0],
            "constant_iou": constant.iou_mean_of_samples,
            "iou_mean_of_categories": categories.iou[0],
            "constant_iou_mean_of_categories": constant.iou_mean_of_categories,
            "threshold": threshold,
            "views": result.num_views,
            "num_test_samples": samples.num_samples,
            "split": run.dataset.split_name,
            "best_step": state.best_step,
            "steps": state.step,
            "ranks": run.communicator.size,
            "train_seconds": state.train_seconds,
        }
        partial = run.folder / ".summary.partial"
        partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        partial.replace(run.folder / "summary.json")
        run.log.line(f"wrote {run.folder / 'summary.json'}")


def _code_digest() -> str:
    """Return a SHA-256 over the package's sources."""
    digest = hashlib.sha256()
    package = Path(hvd_r2n2.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()
