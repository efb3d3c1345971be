"""The subcommand `python -m hvd_r2n2.plan scale`: its words, and what is done for them."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hvd_r2n2.common.arguments import count
from hvd_r2n2.common.files import check_can_write
from hvd_r2n2.common.memory import keep_freed_memory
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import write_and_show
from hvd_r2n2.config import Config, SplitConfig, load_config, to_mapping
from hvd_r2n2.measuring.calibration import calibrate
from hvd_r2n2.measuring.calibration_network import CalibrationRequest
from hvd_r2n2.measuring.calibration_report import print_calibration
from hvd_r2n2.measuring.report import provenance, write_json
from hvd_r2n2.measuring.scale import assume_workload, measure_workload, predict, with_speedup
from hvd_r2n2.measuring.scale_report import draw_scaling, print_checks, print_scaling
from hvd_r2n2.scaling.allreduce import find_algorithm
from hvd_r2n2.scaling.calibration import read_calibration
from hvd_r2n2.scaling.comparison import Conditions, Storage, parse_ranks
from hvd_r2n2.scaling.links import find_cluster
from hvd_r2n2.scaling.overlap import Fusion
from hvd_r2n2.scaling.published import check
from hvd_r2n2.scaling.workload import GRAPHED, Workload, read_workload, write_workload
from hvd_r2n2.telemetry.charts import check_picture
from hvd_r2n2.training.machine_costs import Effort

_DESCRIPTION = """\
Predict step time, efficiency and cost over clusters that are not here: plain data parallelism, split ranks of two
devices and a mixture, with the batch of the settings over all devices (strong) and on each (weak). What a step costs is
measured on this machine, read from --costs, or counted for --device at an assumed share of its published peak."""

_HERE = "costs measured here"
_PREDICTION = (_HERE, "--device", "--costs")
_OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "--config": ((_HERE, "--device", "--calibrate"), None),
    "--set": ((*_PREDICTION, "--calibrate"), ()),
    "--ranks": ((*_PREDICTION, "--calibrate"), None),
    "--network": (_PREDICTION, "nvlink4+8*ndr"),
    "--devices-per-node": (_PREDICTION, 8),
    "--device-share": (("--device",), 0.4),
    "--save-costs": (_PREDICTION, None),
    "--split-speedup": (_PREDICTION, None),
    "--spread": (_PREDICTION, 0.02),
    "--algorithm": (_PREDICTION, "best"),
    "--node-images-per-s": (_PREDICTION, None),
    "--shared-gb-per-s": (_PREDICTION, None),
    "--price": (_PREDICTION, None),
    "--measure-steps": ((_HERE, "--calibrate"), 3),
    "--measure-seconds": ((_HERE, "--calibrate"), 10),
    "--networks": (("--calibrate",), "memory,tcp,100mbit"),
    "--rounds": (("--calibrate",), 5),
    "--warmup": (("--calibrate",), 1),
    "--largest-mib": (("--calibrate",), 64),
    "--calibration": (_PREDICTION, None),
}
"""What an option goes with, and what it is where it is not given."""


def scale(words: Sequence[str]) -> None:
    """Predict, write and print; what was found goes to files first, and in any case to standard output.

    Raises:
        ValueError: a word or a setting is wrong.
        OSError: a file cannot be read or written.
    """
    options = _parser().parse_args(words)
    command = shlex.join(["python", "-m", "hvd_r2n2.plan", "scale", *words])
    if options.picture is not None and (options.check or options.calibrate):
        raise ValueError("--picture: draws a prediction, not what --check and --calibrate find (leave it out)")
    _refuse_ignored(options)
    check_can_write(options.json, options.picture, options.save_costs)
    check_picture(options.picture)
    if options.calibrate:
        _calibrate(options, command)
        return
    if options.check:
        checks = check()
        content = {"checks": [asdict(one) for one in checks]}
        write_and_show(
            lambda: print_checks(checks), (options.json, lambda path: write_json(path, provenance(command) | content))
        )
        return
    config = load_config(options.config, options.set)
    settings = to_mapping(config)
    if options.costs is not None:
        settings = {"horovod": settings["horovod"]}  # the others are not what these costs are of
    costs = None if options.costs is None else read_workload(options.costs)
    if options.split_speedup is not None and (costs or config.train).cuda_graphs:
        raise ValueError(f"--split-speedup: {GRAPHED} (leave one out)")
    counts, conditions = parse_ranks(options.ranks or "1..4096"), _conditions(config, options)
    speedup = _positive(options.split_speedup, "--split-speedup")
    workload = with_speedup(costs or _workload(config, options), speedup)
    found = predict(workload, conditions, counts, command, settings)
    write_and_show(
        lambda: print_scaling(found),
        (options.save_costs, lambda path: write_workload(path, workload, provenance(command) | {"settings": settings})),
        (options.json, lambda path: write_json(path, found.content)),
        (options.picture, lambda path: draw_scaling(path, found)),
    )


def _calibrate(options: argparse.Namespace, command: str) -> None:
    config = load_config(options.config, options.set)
    _refuse_split(config.split, "--calibrate")
    request = CalibrationRequest(
        networks=tuple(options.networks.split(",")),
        ranks=parse_ranks(options.ranks or "1..8"),
        rounds=options.rounds,
        warmup=options.warmup,
        largest_bytes=options.largest_mib * 2**20,
        effort=Effort(options.measure_steps, options.measure_seconds),
        command=command,
        report=say,
    )
    content = calibrate(config, request)
    write_and_show(lambda: print_calibration(content), (options.json, lambda path: write_json(path, content)))


def _refuse_ignored(options: argparse.Namespace) -> None:
    """Raise a ValueError if something is given that would be ignored; fill in what is not given."""
    modes = [mode for mode in ("--check", "--calibrate", "--costs", "--device") if _given(options, mode)]
    if len(modes) > 1:
        raise ValueError(f"{modes[0]} and {modes[1]}: one command does one of them, leave the other out")
    mode = modes[0] if modes else _HERE
    if options.costs is not None:
        _refuse_settings(options)
    for option, (goes_with, default) in _OPTIONS.items():
        if not _given(options, option):
            setattr(options, _attribute(option), default)
        elif mode not in goes_with:
            raise ValueError(f"{option}: would be ignored, it only goes with {' or '.join(goes_with)} (leave it out)")


def _attribute(option: str) -> str:
    return option[2:].replace("-", "_")


def _given(options: argparse.Namespace, option: str) -> bool:
    return getattr(options, _attribute(option)) is not None


def _refuse_settings(options: argparse.Namespace) -> None:
    """Raise a ValueError if settings are given that costs of a file do not go by."""
    ignored = [f"--set {override}" for override in options.set or () if not override.lstrip().startswith("horovod.")]
    if options.config is not None:
        ignored.insert(0, f"--config {options.config}")
    if ignored:
        raise ValueError(
            f"--costs: network, batch, views and steps are those of {options.costs}, {', '.join(ignored)} would be "
            "ignored (leave it out; of the settings only horovod.* goes with --costs)"
        )


def _refuse_split(split: SplitConfig, mode: str) -> None:
    """Raise a ValueError if a split is set where none is measured."""
    given = [
        f"split.{one.name}"
        for one in fields(SplitConfig)
        if one.name != "hang_timeout_s" and getattr(split, one.name) != one.default
    ]
    if given:
        raise ValueError(f"{mode}: measures no split, {', '.join(given)} would be ignored (leave it out)")


def _workload(config: Config, options: argparse.Namespace) -> Workload:
    if options.device is not None:
        _refuse_split(config.split, "--device")
        return assume_workload(config, options.device, options.device_share)
    keep_freed_memory()
    effort = Effort(options.measure_steps, options.measure_seconds)
    return measure_workload(config, effort, say)


def _conditions(config: Config, options: argparse.Namespace) -> Conditions:
    spread = options.spread
    if not (math.isfinite(spread) and 0 <= spread < 1):
        raise ValueError(f"--spread {spread:g} is not possible (from 0, below 1)")
    gigabytes = _positive(options.shared_gb_per_s, "--shared-gb-per-s")
    links, fusion = ({}, Fusion()) if options.calibration is None else read_calibration(options.calibration)
    return Conditions(
        find_cluster(options.network, options.devices_per_node, links),
        fusion=fusion.with_settings(config.horovod),
        spread=spread,
        algorithm=find_algorithm(options.algorithm),
        storage=Storage(
            _positive(options.node_images_per_s, "--node-images-per-s"), None if gigabytes is None else gigabytes * 1e9
        ),
        price=_positive(options.price, "--price"),
    )


def _positive(value: float | None, name: str) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} {value:g} is not possible (more than 0)")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvd_r2n2.plan scale", description=_DESCRIPTION)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="settings (YAML): network, batch, views, steps of the run, Horovod")
    add("--set", action="append", metavar="SECTION.KEY=VALUE", help="change one setting")
    add("--ranks", metavar="N..M", help="devices, doubling from N to M, or a list (1..4096; --calibrate: 1..8)")
    add(
        "--network",
        metavar="INSIDE+BETWEEN",
        help="links inside a node and between nodes, with the network cards a node (nvlink4+8*ndr)",
    )
    add("--devices-per-node", type=int, metavar="N", help="(8)")
    add("--device", metavar="NAME", help="count the arithmetic for a device that is not here, such as h100")
    add("--device-share", type=float, metavar="X", help="of its peak that is assumed to be reached (0.4)")
    add(
        "--costs",
        type=Path,
        metavar="FILE",
        help="costs of a step that --save-costs wrote, on any machine, in place of all settings but horovod.*",
    )
    add("--save-costs", type=Path, metavar="FILE", help="write the costs of a step, for --costs")
    add("--split-speedup", type=float, metavar="X", help="what a split over two devices gains, where not measured")
    add("--spread", type=float, metavar="X", help="of ranks' times, for stragglers (0.02)")
    add(
        "--algorithm",
        metavar="NAME",
        help="of the allreduce: ring; tree (NCCL's, in its protocol Simple); hierarchical (which Horovod only does "
        "with HOROVOD_HIERARCHICAL_ALLREDUCE=1); or what NCCL takes, the fastest of rings and trees and of its "
        "protocols Simple and LL128 for each size, and a ring where Open MPI averages (best)",
    )
    add("--node-images-per-s", type=float, metavar="X", help="what the loader of a node gives (never too slow)")
    add("--shared-gb-per-s", type=float, metavar="X", help="what the file system gives all nodes (never too slow)")
    add("--price", type=float, metavar="X", help="of a device for an hour, in any currency")
    add("--measure-steps", type=count, metavar="N", help="runs of which medians are taken (3)")
    add("--measure-seconds", type=count, metavar="S", help="about how long a run may take (10)")
    add("--check", action="store_true", default=None, help="hold the model against published figures, and nothing else")
    add(
        "--calibrate",
        action="store_true",
        default=None,
        help="run ranks of Horovod on this machine: allreduces, to which links are fitted, and training steps beside "
        "what these links predict (train.batch_size is all ranks' together; one thread a rank, float32 unless set)",
    )
    add(
        "--networks",
        metavar="NAME,…",
        help="for --calibrate: memory, tcp (loopback), or rates of slow lines, which need root and tc "
        "(memory,tcp,100mbit)",
    )
    add("--rounds", type=int, metavar="N", help="for --calibrate: of each arm, in turn (5)")
    add("--warmup", type=int, metavar="N", help="for --calibrate: before them (1)")
    add("--largest-mib", type=int, metavar="N", help="for --calibrate: the largest tensor (64)")
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what --calibrate --json wrote: its links for --network, and its ranks' settings of Horovod",
    )
    add("--json", type=Path, metavar="FILE", help="write everything")
    add("--picture", type=Path, metavar="FILE", help="draw efficiency over devices (png, svg or pdf)")
    return parser
