"""The command `python -m hvd_r2n2.evaluate`: a checkpoint's IoU (or accuracy) by category, and more."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hvd_r2n2.comm import connect, run_door
from hvd_r2n2.common.files import check_can_write, replacing
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import show, write_and_show
from hvd_r2n2.config import Config, DataConfig, SplitConfig, to_yaml, with_overrides
from hvd_r2n2.training.checkpoint import Checkpoint
from hvd_r2n2.training.consistency import check_same_start, code_digest
from hvd_r2n2.training.data import data_root
from hvd_r2n2.training.evaluation_run import is_of_run, load_network, open_on_all_ranks, run_directory
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.precision import DTYPES
from hvd_r2n2.training.task import EvaluationOptions
from hvd_r2n2.training.tasks import create_task

_DESCRIPTION = """\
Measure a trained network: IoU by category and number of views as in the paper (mean of categories and mean of
samples), at thresholds 0.2 to 0.5 and at the one chosen on the validation part, average precision, cross-entropy
and F-score at 1 %; beside them the IoU of the best constant prediction. Of a network that classifies: accuracy and
cross-entropy by class, with the confusion matrix in the JSON file. Runs alone or on any number of ranks (mpirun,
horovodrun, srun) with the same result, to the last digit on CPUs."""

DEFAULT_VIEWS = (1, 2, 3, 4, 5)

_SETTABLE = (
    "data.validation_fraction",
    "data.skip_models",
    "data.cache_dir",
    "train.cpu_threads",
    "train.stall_timeout_s",
)
"""What of the run's settings evaluation goes by and has no option of its own."""

_OPTIONS = {
    "data.root": "--data",
    "data.split": "--split",
    "data.categories": "--categories",
    "evaluation.views": "--views",
    "evaluation.threshold": "--threshold",
    "evaluation.batch_size": "--batch-size",
    "train.dtype": "--dtype",
    "train.device": "--device",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; every rank calls it.

    Raises:
        ValueError, OSError: something asked for is not there or cannot be done.
        JobError: the ranks would not measure the same.
    """
    options = _parser().parse_args(arguments)
    comm = connect()
    report = say if comm.is_root else _say_nothing
    checkpoint = open_on_all_ranks(options.checkpoint, comm, lambda text: say(f"warning: {text}"))
    config = _configure(checkpoint.config, options)
    chosen = _choose(config, options)
    json_path, csv_path = _output_paths(checkpoint, config, options)
    comm.watch(config.train.stall_timeout_s)
    device = place_rank(config, comm, report).devices[0]
    report(f"{checkpoint.path}, on the data in {data_root(config.data).resolve()}")
    # Before the data, which may take long to open: a run that still trains may replace the checkpoint meanwhile.
    model = load_network(checkpoint, device, config.train.dtype)
    task = create_task(config)
    dataset = task.open_data(comm, report)
    check_same_start(
        comm,
        {
            "the code of hvd_r2n2": code_digest(),
            "what is to be measured": hashlib.sha256(f"{to_yaml(config)}{chosen}".encode()).hexdigest(),
            "the data": dataset.content_digest,
        },
    )
    _check_data(checkpoint, config, dataset.content_digest)
    result = task.evaluate(checkpoint, model, dataset, chosen, comm, device, report if comm.is_root else None)
    if result is not None:
        write_and_show(
            lambda: show(result.to_text()),
            (json_path, lambda path: _write(path, result.to_json())),
            (csv_path, lambda path: _write(path, result.to_csv())),
        )
    comm.barrier()  # rank 0 may still fail to write: none has succeeded before it has
    comm.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvd_r2n2.evaluate", description=_DESCRIPTION)
    add = parser.add_argument
    default = "evaluation.{} in the run's directory; with the name of what is not as in the run, if anything is"
    add("checkpoint", type=Path, help="a run's directory (its best checkpoint is taken) or a checkpoint's")
    add("--views", type=int, nargs="+", metavar="V", help="numbers of views (1 2 3 4 5)")
    add(
        "--data",
        metavar="DIR",
        help="other data than the run's: a folder with ShapeNetRendering/ and ShapeNetVox32/, or with CLASS/*.png",
    )
    add("--split", help="another split than the run's: r2n2, or a file like ShapeNet.json")
    add("--categories", nargs="+", metavar="NAME", help="only these categories, or all (default: the run's)")
    add("--part", choices=("test", "validation"), default="test", help="which part is measured (test)")
    add("--threshold", type=float, metavar="T", help="fix the threshold instead of choosing it on the validation part")
    add("--json", type=Path, metavar="FILE", help=f"where to write JSON ({default.format('json')})")
    add("--csv", type=Path, metavar="FILE", help=f"where to write CSV ({default.format('csv')})")
    add("--batch-size", type=int, metavar="N", help="samples of one forward pass, of one thread on a CPU (the run's)")
    add("--dtype", choices=DTYPES, help="arithmetic (the run's)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (a GPU if there is one)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help=f"change one of the run's settings; may be given many times: {', '.join(_SETTABLE)}",
    )
    add("--no-f-score", action="store_true", help="leave out the F-score, which takes the longest")
    return parser


def _choose(config: Config, options: argparse.Namespace) -> EvaluationOptions:
    """Return what is to be measured.

    Raises:
        ValueError: an option means nothing for this network.
    """
    if not config.model.classifies:
        views = tuple(dict.fromkeys(options.views or DEFAULT_VIEWS))
        return EvaluationOptions(options.part, views, options.threshold, f_score=not options.no_f_score)
    given = {
        "--views": options.views is not None,
        "--threshold": options.threshold is not None,
        "--no-f-score": options.no_f_score,
        "--categories": options.categories is not None,
    }
    ignored = [option for option, is_given in given.items() if is_given]
    if ignored:
        raise ValueError(
            f"{', '.join(ignored)}: not for a run of {config.model.name}, which names the class of single pictures, "
            "always one of those it was trained on"
        )
    return EvaluationOptions(options.part)


def _configure(config: Config, options: argparse.Namespace) -> Config:
    """Return the run's settings with what the command line replaces."""
    data, evaluation = config.data, config.evaluation
    if options.data is not None:
        if not Path(options.data).is_dir():
            raise ValueError(f"--data {options.data} is not a directory")
        # What only spoke of the run's own data does not hold for others.
        data = replace(
            data, root=options.data, models_per_category=None, shapes_seed=None, skip_models=(), cache_dir=None
        )
    if options.split is not None:
        fraction = data.validation_fraction if options.split == "r2n2" else None  # a file brings its own part
        data = replace(data, split=options.split, validation_fraction=fraction)
    if options.categories is not None:
        data = replace(data, categories=None if options.categories == ["all"] else tuple(options.categories))
    if options.batch_size is not None:
        evaluation = replace(evaluation, batch_size=options.batch_size)
    # These were of the machine that trained.
    train = replace(
        config.train,
        device=options.device,
        cpu_threads=None,
        cuda_graphs=False,
        tf32=config.train.tf32 or options.device == "cpu",
        dtype=options.dtype or config.train.dtype,
    )
    for override in options.overrides:
        key = override.partition("=")[0].strip()
        if key in _OPTIONS:
            raise ValueError(f"--set {override}: use {_OPTIONS[key]} for {key}")
        if key not in _SETTABLE:
            raise ValueError(f"--set {override}: evaluation takes {', '.join(_SETTABLE)}, not {key}")
    changed = replace(config, data=data, train=train, evaluation=evaluation, split=SplitConfig())
    return with_overrides(changed, options.overrides, "the run's settings with those of the command line")


def _output_paths(checkpoint: Checkpoint, config: Config, options: argparse.Namespace) -> tuple[Path, Path]:
    """Return where JSON and CSV go."""
    directory = run_directory(checkpoint)
    stem = "-".join(("evaluation", *_differences(checkpoint, config, options)))
    paths = (options.json or directory / f"{stem}.json", options.csv or directory / f"{stem}.csv")
    try:
        check_can_write(*paths)
    except ValueError as error:
        raise ValueError(f"{error}; choose a file with --json and --csv") from None
    return paths


def _differences(checkpoint: Checkpoint, config: Config, options: argparse.Namespace) -> list[str]:
    """Return a word for each thing that makes this another measurement than that of the run itself."""
    candidates = (
        (not is_of_run(checkpoint), f"step-{checkpoint.step:08d}"),
        *((True, word) for word in _data_differences(checkpoint.config.data, config.data)),
        (options.part != "test", options.part),
        (options.threshold is not None, f"threshold-{options.threshold}"),
        (config.train.dtype != checkpoint.config.train.dtype, config.train.dtype),
    )
    return [word.replace("/", "-") for differs, word in candidates if differs]


def _data_differences(before: DataConfig, now: DataConfig) -> list[str]:
    """Return a word for each setting that makes the samples or their parts others than those of the run."""
    is_other_root = _place(now.root) != _place(before.root)
    is_other_split = _place(now.split) != _place(before.split)
    is_other_fraction = now.validation_fraction != before.validation_fraction
    candidates = (
        (is_other_root, Path(now.root or "").resolve().name),
        (is_other_split, Path(now.split).stem),
        (is_other_fraction and not is_other_split, f"validation-{now.validation_fraction}"),
        (now.categories != before.categories, "-".join(now.categories or ("all",))),
        (now.skip_models != before.skip_models and not is_other_root, f"without-{len(now.skip_models)}"),
    )
    return [word for differs, word in candidates if differs]


def _check_data(checkpoint: Checkpoint, config: Config, content_digest: str) -> None:
    """Raise a ValueError if the data of the run itself have changed since: the parts may be others now."""
    trained_on = checkpoint.state.data_digest
    if not trained_on or content_digest == trained_on or _data_differences(checkpoint.config.data, config.data):
        return
    raise ValueError(
        f"{data_root(config.data)}: the data are not those that {checkpoint.path} was trained on (models, files or "
        "parts have changed), so what it was trained on may be in the part that is to be measured; bring them back, "
        "or if others are meant, name their folder, another one, with --data"
    )


def _place(path: str | None) -> Path | None:
    return None if path is None else Path(path).resolve()


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    say(f"wrote {path}")


def _say_nothing(text: str) -> None:
    pass


if __name__ == "__main__":
    run_door("hvd_r2n2.evaluate", main)
