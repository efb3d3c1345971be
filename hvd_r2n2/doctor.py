"""`python -m hvd_r2n2.doctor`: what is there, what follows, and what to do about it; exit 1 if ranks cannot train."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import hvd_r2n2
from hvd_r2n2.comm import launch_facts, run_door
from hvd_r2n2.comm.diagnosis import Finding, diagnose

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def main() -> None:
    """Print the findings; under a launcher only rank 0 prints, for all ranks."""
    parser = argparse.ArgumentParser(
        prog="python -m hvd_r2n2.doctor",
        description="Look at everything that training needs, with a real allreduce over 2 ranks here, or, under "
        "mpirun, horovodrun or srun, over the ranks of that launch. Exits with 1 if training could not run.",
    )
    parser.parse_args()
    findings = diagnose()
    has_problem = any(finding.state == "problem" for finding in findings)
    launch = launch_facts()
    if launch.rank == 0:
        # mpirun gives its ranks a terminal of its own, whatever the output goes to.
        console = Console(highlight=False, soft_wrap=True, force_terminal=None if launch.size == 1 else False)
        console.print(_table(findings))
        console.print(
            "training with several ranks cannot run: see the remedies above"
            if has_problem
            else "ready to train: horovodrun -np 2 python -m hvd_r2n2.train",
            style="bold red" if has_problem else "green",
        )
    if has_problem:
        sys.exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table(title=f"hvd_r2n2 {hvd_r2n2.__version__}", title_justify="left", show_header=False, box=None)
    for finding in findings:
        remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
        style = _STYLES[finding.state]
        table.add_row(finding.subject, f"[{style}]{finding.state}[/]", escape(f"{finding.text}{remedy}"))
    return table


if __name__ == "__main__":
    run_door("hvd_r2n2.doctor", main)
