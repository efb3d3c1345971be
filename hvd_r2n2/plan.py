"""`python -m hvd_r2n2.plan`: measure this machine, predict every split of a network over its devices, choose one.

`python -m hvd_r2n2.plan scale`: predict clusters that are not here.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hvd_r2n2.comm import Alone, launch_facts, run_door
from hvd_r2n2.common.arguments import count
from hvd_r2n2.common.files import check_can_write, replacing
from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.common.memory import keep_freed_memory
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import show, write_and_show
from hvd_r2n2.config import Config, load_config, to_mapping, with_overrides
from hvd_r2n2.measuring.comparison import for_random_batches
from hvd_r2n2.measuring.prediction import measure_devices
from hvd_r2n2.measuring.report import provenance, wide_console
from hvd_r2n2.measuring.scale_command import scale
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.drawing import timeline
from hvd_r2n2.split.planner import Ranking, rank
from hvd_r2n2.training.machine_costs import Effort
from hvd_r2n2.training.placement import Placement, place_rank
from hvd_r2n2.training.plan_report import explain, to_json, to_plan_yaml, to_table
from hvd_r2n2.training.planning import wanted_of
from hvd_r2n2.training.step import share_of_batch

_DESCRIPTION = """\
Measure what every layer takes on this machine, forward and backward, whole and in parts, and predict step time, memory
a device and bubble of every strategy, cut and number of micro-batches, and of plain data parallelism over the same
devices. Needs no data. What the settings fix (split.strategy, split.cut, split.micro_batches, …) is kept.
`python -m hvd_r2n2.plan scale --help`: clusters that are not here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, predict, print and write.

    Raises:
        ValueError: the settings are wrong, or no split that they allow is possible.
        OSError: a file cannot be written.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if launch_facts().size > 1:
        raise ValueError("planning is for the devices of one rank: start it without mpirun, horovodrun or srun")
    if words[:1] == ["scale"]:
        scale(words[1:])
        return
    options = _parser().parse_args(words)
    check_can_write(options.out, options.json)
    keep_freed_memory()
    given = load_config(options.config, options.overrides)
    if given.split.strategy == "none":
        given = with_overrides(given, ["split.strategy=auto"], "planning")
    share_of_batch(given, options.ranks)
    placement = place_rank(given, Alone(), say)
    effort = Effort(options.measure_steps, options.measure_seconds)
    job, costs = measure_devices(for_random_batches(given), placement, options.ranks, effort, say)
    ranking = rank(job, costs, wanted_of(given.split))
    command = shlex.join(["python", "-m", "hvd_r2n2.plan", *words])
    write_and_show(
        lambda: _show(ranking, placement),
        (options.out, lambda path: _write_settings(path, ranking, given, command)),
        (options.json, lambda path: _write_all(path, ranking, costs, given, options.ranks, command)),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvd_r2n2.plan", description=_DESCRIPTION)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="settings (YAML), such as configs/demo.yaml")
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change one setting, such as train.batch_size=16; may be given many times",
    )
    add("--out", type=Path, metavar="FILE", help="write the settings with the chosen split, for train --config")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured and predicted")
    add("--ranks", type=count, default=1, metavar="N", help="ranks that share train.batch_size (1)")
    add("--measure-steps", type=count, default=3, metavar="N", help="runs of which medians are taken (3)")
    add(
        "--measure-seconds",
        type=count,
        default=10,
        metavar="S",
        help="about how long a run may take: more seconds try larger micro-batches (10)",
    )
    return parser


def _show(ranking: Ranking, placement: Placement) -> None:
    """Print the table, the best one's timeline, and the conclusion."""
    choice = ranking.choice
    wide_console(160).print(to_table(ranking, f"a step over {', '.join(placement.names)}"))
    show(timeline(choice.tasks, len(choice.memory)))
    show(explain(ranking))


def _write_settings(path: Path, ranking: Ranking, given: Config, command: str) -> None:
    where = f"{find_hardware().text}; {find_versions().text}"
    with replacing(path) as partial:
        partial.write_text(to_plan_yaml(given, ranking, command, where), encoding="utf-8")
    say(f"{path}: written; train with --config {path}")


def _write_all(path: Path, ranking: Ranking, costs: Costs, given: Config, num_ranks: int, command: str) -> None:
    about = {**provenance(command), "ranks": num_ranks, "settings": to_mapping(given)}
    with replacing(path) as partial:
        partial.write_text(to_json(ranking, costs, about), encoding="utf-8")
    say(f"{path}: written")


if __name__ == "__main__":
    run_door("hvd_r2n2.plan", main)
