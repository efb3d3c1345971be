"""`python -m hvd_r2n2.doctor`: what is there, what follows, and what to do about it; exit 1 if ranks cannot train.

Only the standard library is imported before it is known that the rest is there: this is the command for when it is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from typing import TYPE_CHECKING, NoReturn

import hvd_r2n2

if TYPE_CHECKING:
    from rich.table import Table

    from hvd_r2n2.comm.diagnosis import Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_REQUIRED = ("torch", "numpy", "yaml", "tensorboard", "PIL", "safetensors", "rich", "typing_extensions")


def main() -> None:
    """Print the findings; under a launcher only rank 0 prints, for all ranks."""
    parser = argparse.ArgumentParser(
        prog="python -m hvd_r2n2.doctor",
        description="Look at everything that training needs, with a real allreduce over 2 ranks here, or, under "
        "mpirun, horovodrun or srun, over the ranks of that launch. Exits with 1 if training could not run.",
    )
    parser.parse_args()
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        _stop(f"{', '.join(missing)} not installed")
    try:
        from hvd_r2n2.comm import run_door
    except (ImportError, OSError) as error:
        _stop(f"torch cannot be loaded: {error}")
    run_door("hvd_r2n2.doctor", _examine)


def _stop(problem: str) -> NoReturn:
    print(f"hvd_r2n2 {hvd_r2n2.__version__}")
    print(f" Python    ok       {platform.python_version()} ({sys.executable})")
    print(f" packages  problem  {problem}")
    print("                    -> source .venv/bin/activate, or make setup where there is no .venv yet")
    sys.exit(1)


def _examine() -> None:
    from rich.console import Console

    from hvd_r2n2.comm import launch_facts
    from hvd_r2n2.comm.diagnosis import diagnose, start_command

    launch = launch_facts()
    findings = diagnose()
    has_problem = any(finding.state == "problem" for finding in findings)
    if launch.rank == 0:
        # mpirun gives its ranks a terminal of its own, whatever the output goes to.
        console = Console(highlight=False, soft_wrap=True, force_terminal=None if launch.size == 1 else False)
        console.print(_table(findings))
        console.print(
            "training with several ranks cannot run: see the remedies above"
            if has_problem
            else f"ready to train: {start_command()}",
            style="bold red" if has_problem else "green",
        )
    if has_problem:
        sys.exit(1)


def _table(findings: list[Finding]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"hvd_r2n2 {hvd_r2n2.__version__}", title_justify="left", show_header=False, box=None)
    for finding in findings:
        remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
        style = _STYLES[finding.state]
        table.add_row(finding.subject, f"[{style}]{finding.state}[/]", escape(f"{finding.text}{remedy}"))
    return table


if __name__ == "__main__":
    main()
