"""`python -m hvd_r2n2.gather`: put finished runs side by side, of a scaling benchmark or of a sweep."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hvd_r2n2.comm import run_door
from hvd_r2n2.common.files import check_can_write
from hvd_r2n2.common.standard_output import write_and_show
from hvd_r2n2.measuring.gathering import draw_runs, print_runs, read_runs
from hvd_r2n2.measuring.report import provenance, write_json
from hvd_r2n2.telemetry.charts import check_picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, print their table and write what is asked for."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    check_picture(options.picture)
    check_can_write(options.json, options.picture)
    gathered = read_runs(options.runs)
    command = shlex.join(["python", "-m", "hvd_r2n2.gather", *words])
    write_and_show(
        lambda: print_runs(gathered),
        (options.json, lambda path: write_json(path, provenance(command) | gathered.content())),
        (options.picture, lambda path: draw_runs(path, gathered)),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hvd_r2n2.gather",
        description="A row a run: ranks, the settings in which the runs differ, throughput (median over the lines of "
        "metrics.jsonl, without the first), speed-up over the run with the fewest ranks, and what its summary says. "
        "Runs that have not finished are named and left out.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory of hvd_r2n2.train")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the throughputs (png, svg or pdf)")
    return parser


if __name__ == "__main__":
    run_door("hvd_r2n2.gather", main)
