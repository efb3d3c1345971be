"""`python -m hvd_r2n2.train`: train a network, alone or as one of many ranks."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hvd_r2n2.comm import Communicator, connect, leave, run_door
from hvd_r2n2.common.exit_codes import ExitCode
from hvd_r2n2.common.memory import keep_freed_memory
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.measuring.baseline import ensure_baseline
from hvd_r2n2.measuring.comparison import Request
from hvd_r2n2.training.run import train
from hvd_r2n2.training.start_times import StartTimes
from hvd_r2n2.training.stop_request import StopRequest
from hvd_r2n2.training.tasks import resolve


def main() -> None:
    """Parse the command line and train."""
    times = StartTimes()
    times.mark("imports")
    arguments = _parser().parse_args()
    if arguments.resume and arguments.out is None:
        raise ValueError("--resume: needs --out DIR, the run to go on with")
    config = _config(arguments)
    keep_freed_memory()
    with StopRequest(config.checkpoint.signal) as stop:
        code = _train(arguments, config, stop, times)
    if code != ExitCode.DONE:
        leave(code)


def _train(arguments: argparse.Namespace, config: Config, stop: StopRequest, times: StartTimes) -> ExitCode:
    communicator = connect(config.horovod)
    out = communicator.broadcast_object(arguments.out or _new_folder(arguments.config))
    times.mark("ranks")
    code = train(config, out, communicator, stop, times, resume=arguments.resume, with_baseline=_with_baseline)
    communicator.close()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hvd_r2n2.train",
        allow_abbrev=False,  # the Slurm scripts look for --out
        description="Train a network. Without --config: the built-in recipe, on built-in shapes. Several ranks: "
        "horovodrun -np 2 python -m hvd_r2n2.train …, or mpirun -np 2 …",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (YAML), such as configs/demo.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change one setting, such as train.steps=500; may be given many times",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: a new one under runs/)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest whole checkpoint in --out, if there is one; settings come from the run unless "
        "--config is given",
    )
    return parser


def _config(arguments: argparse.Namespace) -> Config:
    path = arguments.config
    if path is None and arguments.resume and (arguments.out / "config.yaml").exists():
        path = arguments.out / "config.yaml"
    return _with_whole_paths(load_config(path, arguments.overrides))


def _with_whole_paths(config: Config) -> Config:
    """Return the settings with paths that mean the same from any working directory, as they are kept with the run."""

    def whole(key: str, path: str | None) -> str | None:
        if path is None:
            return None
        try:
            known = Path(path).expanduser()
        except RuntimeError:
            raise ValueError(f"{key}: {path}: no user of that name here (write the whole path)") from None
        try:
            return str(known.resolve())
        except RuntimeError:
            raise ValueError(f"{key}: {path}: a symbolic link that leads back to itself") from None

    data, model = config.data, config.model
    split = data.split if data.split == "r2n2" else str(whole("data.split", data.split))
    baseline = config.log.baseline if config.log.baseline == "measure" else whole("log.baseline", config.log.baseline)
    data = replace(
        data, root=whole("data.root", data.root), cache_dir=whole("data.cache_dir", data.cache_dir), split=split
    )
    log = replace(config.log, baseline=baseline)
    return replace(config, data=data, log=log, model=replace(model, weights=whole("model.weights", model.weights)))


def _with_baseline(config: Config, out: Path, communicator: Communicator, report: Callable[[str], None]) -> Config:
    """Return the settings that name OUT/baseline.json; on a single rank it is measured where it does not fit."""
    path = out.resolve() / "baseline.json"
    if communicator.size == 1:
        request = Request(rounds=3, warmup=1, accumulation=None, command=shlex.join(sys.orig_argv), report=report)
        ensure_baseline(path, resolve(config), request)
    elif not path.exists():  # a run that is resumed may have it
        raise ValueError(
            "log.baseline: measure is for a single rank, since waiting ranks would slow the measured one (run "
            f"`python -m hvd_r2n2.benchmark baseline --ranks {communicator.local_size}` with the same settings first, "
            "and give its file)"
        )
    return replace(config, log=replace(config.log, baseline=str(path)))


def _new_folder(config: Path | None) -> Path:
    return Path("runs") / f"{config.stem if config else 'built-in'}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    run_door("hvd_r2n2.train", main)
