"""One training run from start to end: its folder, what it goes on from, and its last evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import hvd_r2n2
from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.exit_codes import ExitCode
from hvd_r2n2.common.files import replacing
from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.config import Config, ModelConfig, to_yaml
from hvd_r2n2.data.check import DataProblems
from hvd_r2n2.models import load_weights
from hvd_r2n2.telemetry import Baseline, RunLog, load_baseline
from hvd_r2n2.training.build_engine import build_engine
from hvd_r2n2.training.checkpoint import (
    Checkpoint,
    TrainingState,
    find_newest,
    point_links,
    read_checkpoint,
    restore,
)
from hvd_r2n2.training.consistency import (
    broadcast_parameters,
    check_equal,
    check_same_start,
    code_digest,
    parameter_digest,
)
from hvd_r2n2.training.evaluation_run import open_on_all_ranks
from hvd_r2n2.training.loop import Run, train_steps
from hvd_r2n2.training.placement import Placement, place_rank
from hvd_r2n2.training.planning import keep_plan
from hvd_r2n2.training.precision import slow_ranks, weights_dtype
from hvd_r2n2.training.run_lock import run_lock
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.start_times import StartTimes
from hvd_r2n2.training.step import share_of_batch
from hvd_r2n2.training.stop_request import StopRequest
from hvd_r2n2.training.task import EvaluationOptions, Findings
from hvd_r2n2.training.tasks import create_task, resolve, resolve_model

# What a resumed run may not change: the network, the samples and their order, and what makes one the best.
_FIXED_SECTIONS = ("model", "data")
_FIXED_KEYS = (
    "train.batch_size",
    "train.seed",
    "train.min_views",
    "train.max_views",
    "train.dtype",
    "optimizer.name",
    # Scores measured otherwise cannot be compared with the best one so far.
    "evaluation.views",
    "evaluation.threshold",
)
_FREE_KEYS = (
    "data.loader_threads",
    "data.prefetch_batches",
    "data.cache_dir",
    "data.root",
    "data.damaged_samples",
    "model.weights",
    "model.form",
)


def train(
    config: Config,
    folder: Path,
    communicator: Communicator,
    stop: StopRequest,
    times: StartTimes,
    *,
    resume: bool,
    with_baseline: Callable[[Config, Path, Communicator, Callable[[str], None]], Config],
) -> ExitCode:
    """Train in the run directory `folder`, from the newest whole checkpoint there if `resume`; every rank calls it.

    `times` are told once the first step is done. `with_baseline` makes the file that `log.baseline=measure` asks for,
    and gives the settings that name it; this process does not use its devices yet.

    Returns DONE, or STOPPED on every rank if any was asked to stop: there is a checkpoint of that step then.

    Raises:
        ValueError: settings, data or checkpoint do not fit.
        OSError: a file cannot be read or written.
        JobError: the ranks are not the same, or training met a loss that is not finite.
    """
    share_of_batch(config, communicator.size)
    if config.log.trace_step is not None and config.log.trace_step > config.train.steps:
        raise ValueError(
            f"log.trace_step: {config.log.trace_step} is after the last step (use at most train.steps, "
            f"{config.train.steps})"
        )
    config = resolve(config)
    with ExitStack() as stack:
        if communicator.is_root:
            stack.enter_context(run_lock(folder, _say))
        checkpoint = _find_start(config, folder, communicator, resume)
        communicator.watch(config.train.stall_timeout_s, folder)
        log = stack.enter_context(RunLog(folder, is_root=communicator.is_root, is_under_launcher=communicator.size > 1))
        if resume and checkpoint is None:
            log.line(f"no checkpoint in {folder}: starting at step 0")
        times.mark("ranks")
        if config.log.baseline == "measure":
            config = with_baseline(config, folder, communicator, log.line)
            times.mark("baseline")
        run, state = _prepare(config, folder, communicator, checkpoint, log, stop, times)
        stack.callback(run.engine.close)
        # Not before all is found to be right: a start that failed can be repeated, and an older run that could not be
        # resumed with these settings keeps its settings and figures. The settings take their name last.
        if communicator.is_root:
            with replacing(folder / "config.yaml") as partial:
                partial.write_text(to_yaml(config), encoding="utf-8")
                log.begin(state.step, config.train.steps, tensorboard=config.log.tensorboard)
        if state.step < config.train.steps:
            state, is_stopped = train_steps(run, state)
            if is_stopped:
                asked = f"as asked (signal {config.checkpoint.signal})"
                log.line(f"stopped after step {state.step}, {asked}; go on with --resume")
                return ExitCode.STOPPED
        else:
            log.line(f"all {config.train.steps} steps are done (train.steps); only the evaluation is made again")
        _finish(run, state)
        return ExitCode.DONE


def _check_is_new(folder: Path) -> None:
    """Raise a ValueError if there is a run in a run directory."""
    if (folder / "config.yaml").exists() or (folder / "checkpoints").exists():
        raise ValueError(f"{folder}: holds a run already (go on with --resume, or choose another --out)")


def _find_start(config: Config, folder: Path, communicator: Communicator, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on every rank.

    Raises:
        ValueError: there is a run and it is not to be resumed, or it cannot be with these settings.
    """
    found = None
    if communicator.is_root:
        if not resume:
            _check_is_new(folder)
        newest = find_newest(folder / "checkpoints", lambda text: _say(f"warning: {text}"))
        if newest is not None:
            _check_unchanged(newest.config, config, folder)
            if newest.step > config.train.steps:
                raise ValueError(
                    f"train.steps: {config.train.steps}, but the run in {folder} has done {newest.step} already (use "
                    f"{newest.step} or more)"
                )
            point_links(newest.path.parent, newest.state)
            found = newest.path.name
    found = communicator.broadcast_object(found)
    return None if found is None else read_checkpoint(folder / "checkpoints" / found)


def _check_unchanged(old: Config, new: Config, folder: Path) -> None:
    problems = [
        f"{key}: the run in {folder} has {before}, not {now}"
        for key, before, now in _changes(old, new)
        if key in _FIXED_KEYS or (key.partition(".")[0] in _FIXED_SECTIONS and key not in _FREE_KEYS)
    ]
    if problems:
        raise ValueError("--resume: " + "; ".join(problems) + " (use its value, or start anew with another --out)")


def _changes(old: Config, new: Config) -> Iterator[tuple[str, Any, Any]]:
    """Give the settings that differ: the key of each, and its values before and now."""
    old = replace(old, model=resolve_model(old.model))  # an older version may have written it
    for section in fields(new):
        before, now = getattr(old, section.name), getattr(new, section.name)
        for setting in fields(now):
            values = getattr(before, setting.name), getattr(now, setting.name)
            if values[0] != values[1]:
                yield f"{section.name}.{setting.name}", *values


def _prepare(
    config: Config,
    folder: Path,
    communicator: Communicator,
    checkpoint: Checkpoint | None,
    log: RunLog,
    stop: StopRequest,
    times: StartTimes,
) -> tuple[Run, TrainingState]:
    log.line(
        f"hvd_r2n2 {hvd_r2n2.__version__}, {communicator.size} rank(s), {communicator.description}, run in {folder}"
    )
    placement = place_rank(config, communicator, log.line)
    device = placement.devices[0]
    if note := slow_ranks(config.train.dtype, device, communicator):
        log.line(note)
    times.mark("ranks")
    # Before the data, which may take long to open. A checkpoint's weights replace the initial ones.
    network = config.model if checkpoint is None else replace(config.model, weights=None)
    model = build_model(network, config.train.seed).to(device, weights_dtype(config.train.dtype))
    times.mark("network")
    task = create_task(config)
    try:
        dataset = task.open_data(communicator, log.line)
    except DataProblems as problems:
        raise ValueError(f"{problems}\n{_keep_problems(problems, folder)}") from None
    if checkpoint is not None and checkpoint.state.data_digest != dataset.content_digest:
        raise ValueError(
            f"--resume: the data are not those that {checkpoint.path} was trained on (models, files or parts have "
            "changed), so its stream of samples cannot go on; start anew with another --out"
        )
    check_same_start(
        communicator,
        {
            "the code of hvd_r2n2": code_digest(),
            "the resolved config": hashlib.sha256(to_yaml(config).encode()).hexdigest(),
            "the data": dataset.content_digest,
        },
    )
    times.mark("data")
    log.line(dataset.summary())
    if not len(dataset.train):
        raise ValueError(f"data.split {config.data.split}: the training part is empty, more models are needed")
    if not len(dataset.validation):
        log.line("the validation part is empty: no checkpoint will be called the best")
    baseline = _find_baseline(config, placement, communicator, log.line, is_resumed=checkpoint is not None)
    kept = checkpoint.state.plan if checkpoint else None
    engine = build_engine(config, model, task.loss_stage(), communicator, placement, log.line, kept)
    if checkpoint is None:
        state = TrainingState(step=0, samples_seen=0, train_seconds=0.0, data_digest=dataset.content_digest)
        broadcast_parameters(communicator, model)
        engine.take_up()
    else:
        state = checkpoint.state
        restore(checkpoint, engine)
        log.line(f"going on from {checkpoint.path.name}")
        for key, before, now in _changes(checkpoint.config, config):
            log.line(f"changed since then: {key} was {before}, is now {now}")
    state = replace(state, plan=keep_plan(config, engine.plan, placement, communicator.size))
    check_equal(
        communicator, "parameters and optimizer at the start", parameter_digest(model, engine.optimizer_tensors())
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    log.line(
        f"{_describe(config.model)}: {count:,} parameters; "
        f"global batch {config.train.batch_size} = {communicator.size} rank(s) x {config.train.accumulation} "
        f"micro-batch(es) x {config.train.batch_size // communicator.size // config.train.accumulation}; "
        f"steps {state.step} to {config.train.steps}, {config.train.dtype}"
    )
    times.mark("network")
    return Run(config, folder, communicator, placement, task, dataset, model, engine, baseline, log, stop, times), state


def _find_baseline(
    config: Config, placement: Placement, communicator: Communicator, report: Callable[[str], None], *, is_resumed: bool
) -> Baseline | None:
    """Return what the run is compared with, if anything; every rank calls it.

    A run may be resumed with other ranks and on other machines: where the baseline does not fit one of them, it goes on
    without the comparison.
    """
    if config.log.baseline is None:
        return None
    baseline, problem = None, None
    try:
        path = Path(config.log.baseline)
        baseline = load_baseline(path, config, placement.devices[0], placement.threads_per_device)
    except (ValueError, OSError) as error:
        if not is_resumed:
            raise
        problem = str(error)
    problems = [found for found in communicator.all_gather_object(problem) if found is not None]
    if not problems:
        return baseline
    report(f"warning: log.baseline: {problems[0]}; the run goes on without the comparison")
    return None


def _keep_problems(problems: DataProblems, folder: Path) -> str:
    """Write the whole report of broken data beside the run's log, by every rank alike; return where it is."""
    path = folder / "data-problems.txt"
    with replacing(path) as partial:
        partial.write_text("\n".join([*map(str, problems.problems), problems.skip_line, ""]), encoding="utf-8")
    return f"The whole list, and the line of data.skip_models, are in {path}."


def _finish(run: Run, state: TrainingState) -> None:
    """Evaluate the best checkpoint on the test part, beside the best constant prediction; every rank calls it.

    Writes evaluation.json and summary.json.
    """
    if not len(run.dataset.test):
        run.log.line("the test part is empty: no evaluation")
        return
    checkpoint = open_on_all_ranks(run.folder, run.communicator, lambda text: run.log.line(f"warning: {text}"))
    load_weights(run.model, checkpoint.weights_path)
    findings = run.task.evaluate(
        checkpoint, run.model, run.dataset, EvaluationOptions(), run.communicator, run.device, report=None
    )
    if findings is not None:
        if run.config.log.pictures:
            run.task.show("test", run.model, run.dataset, run.device, run.log, checkpoint.step, findings)
        _write_results(run, state, checkpoint, findings)


def _write_results(run: Run, state: TrainingState, checkpoint: Checkpoint, findings: Findings) -> None:
    summary = findings.summary() | {
        "checkpoint_step": checkpoint.step,
        "steps": state.step,
        "ranks": run.communicator.size,
        "train_seconds": state.train_seconds,
        "hardware": asdict(find_hardware()),
        "versions": asdict(find_versions()),
    }
    for name, text in (("evaluation.json", findings.to_json()), ("summary.json", json.dumps(summary, indent=1) + "\n")):
        with replacing(run.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    run.log.line(findings.headline())
    run.log.line(f"trained for {state.train_seconds:.0f} s; results in {run.folder}/summary.json and evaluation.json")


def _say(text: str) -> None:
    with suppress(OSError):  # the run's log will tell of it
        print(text, flush=True)


def _describe(model: ModelConfig) -> str:
    words = [model.name, f"width {model.width:g}"]
    words.insert(1, f"{model.num_classes} classes" if model.classifies else f"preset {model.preset}")
    if model.cross not in (None, "default"):
        words.append(f"two towers, crossing at {' '.join(model.cross) or 'no stage'}")
    return ", ".join(words)
