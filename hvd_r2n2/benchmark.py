"""`python -m hvd_r2n2.benchmark device|split|ranks|baseline|data`: measure training steps, or the loader."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hvd_r2n2.comm import launch_facts, run_door
from hvd_r2n2.common.arguments import count
from hvd_r2n2.common.files import check_can_write
from hvd_r2n2.common.names import known_hint
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import show, write_and_show
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.measuring.baseline import measure_baseline
from hvd_r2n2.measuring.comparison import Comparison, Request, compare_ranks, compare_splits
from hvd_r2n2.measuring.data_rates import DataRequest, measure_data
from hvd_r2n2.measuring.data_report import draw_rates, print_rates
from hvd_r2n2.measuring.device import PARTS, Part, compare_device
from hvd_r2n2.measuring.device_report import draw_device, print_device_tables
from hvd_r2n2.measuring.report import draw, print_table, write_json, write_traces
from hvd_r2n2.telemetry.baseline import write_baseline
from hvd_r2n2.telemetry.charts import check_picture
from hvd_r2n2.training.tasks import resolve


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand; what it found goes to files first, and in any case to standard output."""
    options = _parser().parse_args(arguments)
    if launch_facts().size > 1:
        raise ValueError("the benchmark starts its own ranks: start it without mpirun, horovodrun or srun")
    check_picture(getattr(options, "picture", None))
    check_can_write(*(getattr(options, name, None) for name in ("out", "json", "picture")))
    config = load_config(options.config, options.overrides)
    words = sys.argv[1:] if arguments is None else arguments
    if options.subcommand == "data":
        _data(config, options, words)
        return
    request = Request(
        rounds=options.steps,
        warmup=options.warmup,
        accumulation=getattr(options, "accumulation", None),
        command=_command(words),
        report=say,
        predict=getattr(options, "predict", False),
    )
    if options.subcommand == "baseline":
        write_baseline(options.out, measure_baseline(resolve(config), request, options.ranks))
        show(f"{options.out}: written; training compares itself with it where nothing of the above differs")
    elif options.subcommand == "device":
        names = None if options.arms is None else options.arms.split(",")
        device = compare_device(config, request, names, options.arm, _parts(options.only))
        write_and_show(
            lambda: print_device_tables(device.title, device.content),
            (options.json, lambda path: write_json(path, device.content)),
            (options.picture, lambda path: draw_device(path, device.title, device.content)),
        )
    elif options.subcommand == "split":
        names = None if options.arms is None else options.arms.split(",")
        _show(compare_splits(config, request, names, options.arm), options)
    else:
        _show(compare_ranks(config, request), options)


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "hvd_r2n2.benchmark", *words])


def _data(config: Config, options: argparse.Namespace, words: Sequence[str]) -> None:
    content = measure_data(config, DataRequest(options.rounds, options.seconds, _command(words), say))
    write_and_show(
        lambda: print_rates(content),
        (options.json, lambda path: write_json(path, content)),
        (options.picture, lambda path: draw_rates(path, content)),
    )


def _parts(chosen: str | None) -> list[Part]:
    """Return the parts that --only names, in their usual order."""
    names = PARTS if chosen is None else chosen.split(",")
    for name in names:
        if name not in PARTS:
            raise ValueError(f"--only: {name} is not known{known_hint(name, PARTS)}")
    return [part for part in PARTS if part in names]


def _show(found: Comparison, options: argparse.Namespace) -> None:
    is_ranks, content = options.subcommand == "ranks", found.content

    def trace(folder: Path) -> None:
        for path in write_traces(folder, found.results):
            say(f"{path}: a step for https://ui.perfetto.dev")

    write_and_show(
        lambda: print_table(found.title, content["arms"], content["left_out"], ranks=is_ranks),
        (options.json, lambda path: write_json(path, content)),
        (options.picture, lambda path: draw(path, found.title, content["arms"], found.results)),
        (None if is_ranks else options.traces, trace),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hvd_r2n2.benchmark",
        description="Measure whole training steps (forward, backward, averaging, optimizer) on random pictures. All "
        "arms of a run take turns, step by step, in an order that rotates; the others wait.",
    )
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    device = commands.add_parser(
        "device",
        help="the plain network, each optimisation and the defaults on one device, against its own rate of products",
        description="Arms: plain (the network as the paper reads, float32), each optimisation added to those before, "
        "default-float32 and default-bfloat16 (the settings given, in that type). On a CPU each has all threads. "
        "Measures training steps, inference of evaluation.batch_size samples, and of one sample with one view.",
    )
    _add_settings(device, warmup=2, has_accumulation=False)
    _add_results(device)
    _add_device(device)
    split = commands.add_parser(
        "split",
        help="one device, the layers split over two in each way, and torch's DistributedDataParallel over the same two",
        description="Arms: one-device (its best micro-batch), bound (two independent copies of it), naive (whole "
        "batch handed from device to device), pipeline, kernel, spatial, ddp (torch's DistributedDataParallel).",
    )
    _add_settings(split)
    _add_results(split)
    split.add_argument("--arms", metavar="NAME,…", help="only these of the usual arms")
    split.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "SECTION.KEY=VALUE"),
        help="settings of one of the usual arms, or a further arm, such as: pipeline-8 split.strategy=pipeline "
        "split.micro_batches=8; may be given many times",
    )
    split.add_argument(
        "--predict",
        action="store_true",
        help="measure the layers first and say what each arm should take, as `python -m hvd_r2n2.plan` does; splits "
        "need split.micro_batches or split.micro_batch_sizes, and a pipeline split.cut",
    )
    split.add_argument("--traces", type=Path, metavar="DIR", help="write a step of each split for Perfetto")
    ranks = commands.add_parser(
        "ranks",
        help="1 and 2 ranks, Horovod against torch's DistributedDataParallel",
        description="Ranks with one device each; weak: each of 2 ranks has train.batch_size samples, strong: together.",
    )
    _add_settings(ranks)
    _add_results(ranks)
    baseline = commands.add_parser(
        "baseline",
        help="what one device needs for a step, for training to compare itself with",
        description="Measure steps of the whole global batch on one device, in its best micro-batches, for each number "
        "of views from train.min_views to train.max_views.",
    )
    _add_settings(baseline)
    baseline.add_argument(
        "--ranks",
        type=count,
        default=1,
        metavar="N",
        help="ranks of a host in training, which share its cores where train.cpu_threads is null (1)",
    )
    baseline.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write (JSON)")
    _add_data(commands)
    return parser


def _add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = commands.add_parser(
        "data",
        help="the loader against decoding PNG files, on one core and on two",
        description="Arms: decode, cache-read, cache-batch (what a GPU gets), cache-first, cache-float (what a CPU "
        "trains on). Without data.root: built-in shapes, made in a temporary folder.",
    )
    _add_config(data, "change one setting, such as data.root=ROOT or train.batch_size=36")
    data.add_argument("--rounds", type=int, default=9, metavar="N", help="measured rounds (default: 9)")
    data.add_argument(
        "--seconds", type=float, default=0.5, metavar="S", help="of each arm in each round (default: 0.5)"
    )
    _add_results(data)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arms",
        metavar="NAME,…",
        help="only these of the optimisations, such as +NAME; plain and the defaults are measured in any case",
    )
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "SECTION.KEY=VALUE"),
        help="settings of one of the arms, or a further arm that differs so from default-float32, such as: recomputed "
        "train.recompute=true; may be given many times",
    )
    parser.add_argument("--only", metavar="PART,…", help=f"measure only these of {', '.join(PARTS)}")


def _add_config(parser: argparse.ArgumentParser, help_of_set: str) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (YAML), as for hvd_r2n2.train")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help=help_of_set
    )


def _add_settings(parser: argparse.ArgumentParser, *, warmup: int = 1, has_accumulation: bool = True) -> None:
    _add_config(
        parser,
        "change one setting, such as train.batch_size=16; train.cpu_threads are those of one device, or of "
        "all that split.strategy gives a rank, and every step has train.max_views views",
    )
    parser.add_argument("--steps", type=int, default=7, metavar="N", help="measured steps of each arm (default: 7)")
    parser.add_argument(
        "--warmup", type=int, default=warmup, metavar="N", help="steps before them (default: %(default)s)"
    )
    if has_accumulation:
        parser.add_argument(
            "--accumulation",
            type=count,
            metavar="N",
            help="micro-batches of one device; by default 1, 2, 4, 8 and 16 are tried first, and the fastest taken",
        )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them (png, svg or pdf)")


if __name__ == "__main__":
    run_door("hvd_r2n2.benchmark", main)
