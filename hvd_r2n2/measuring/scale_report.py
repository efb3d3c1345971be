"""What `plan scale` shows: tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table

from hvd_r2n2.common.extras import require
from hvd_r2n2.measuring.report import wide_console
from hvd_r2n2.measuring.scale import Scaling
from hvd_r2n2.scaling.comparison import ARRANGEMENTS, MIXTURE, MODES, Row
from hvd_r2n2.scaling.published import TOLERANCE, Check
from hvd_r2n2.telemetry.charts import DPI, INK, WIDTH_INCHES, save, style

_LEAST_WIDTH = 175
_TITLES = {"strong": "the batch of the settings over all devices", "weak": "the batch of the settings on each device"}


def print_scaling(found: Scaling) -> None:
    """Print a table for each way to grow, a row an arrangement and number of devices."""
    console = wide_console(_LEAST_WIDTH)
    workload = found.content["workload"]
    console.print(f"{workload['name']}: {workload['gradient_bytes'] / 2**20:.0f} MiB of gradients", markup=False)
    console.print(f"costs: {workload['source']}", markup=False)
    console.print(f"network: {found.content['assumptions']['network']}", markup=False)
    for mode, rows in groupby(found.rows, key=lambda row: row.mode):
        console.print(_table(f"{mode}: {_TITLES[mode]}", list(rows)))
    if any(row.arrangement == MIXTURE for row in found.rows):
        console.print(f"{MIXTURE}: a prediction only, training gives all ranks as many devices", markup=False)
    for reason in sorted(set(found.content["left_out"].values())):
        names = [name for name, why in found.content["left_out"].items() if why == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"left out: {names[0]}{more} ({reason})", markup=False)


def print_checks(checks: Sequence[Check]) -> None:
    """Print published efficiencies beside the model's."""
    table = Table(title="scaling efficiency, published and by this model", title_justify="left")
    for name in ("network", "between nodes"):
        table.add_column(name)
    for name in ("GPUs", "published", "model", "range of the assumed constants", "difference"):
        table.add_column(name, justify="right")
    for one in checks:
        table.add_row(
            one.network,
            one.between,
            str(one.gpus),
            f"{one.published:.1%}",
            f"{one.predicted:.1%}",
            f"{one.lowest:.1%} to {one.highest:.1%}",
            f"{100 * one.error:+.1f} points",
        )
    console = wide_console(_LEAST_WIDTH)
    console.print(table)
    console.print(f"over RDMA (roce-25g) at most {100 * TOLERANCE:.0f} points may lie between them", markup=False)


def draw_scaling(path: Path, found: Scaling) -> None:
    """Draw efficiency over the number of devices into a file, whose ending says the format (png, svg, pdf).

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: the format is not known.
        OSError: the file cannot be written.
    """
    figure = require("matplotlib.figure").Figure(figsize=(WIDTH_INCHES, 4.2), dpi=DPI, layout="constrained")
    workload, assumptions = found.content["workload"], found.content["assumptions"]
    figure.suptitle(f"{workload['name']}\n{workload['source']}\n{assumptions['network']}", fontsize=8, color=INK)
    for number, (mode, axes) in enumerate(zip(MODES, figure.subplots(1, 2, sharey=True), strict=True)):
        for arrangement, marker in zip(ARRANGEMENTS, "os^", strict=True):
            rows = [row for row in found.rows if (row.mode, row.arrangement) == (mode, arrangement)]
            if rows:
                devices, efficiency = [row.devices for row in rows], [100 * row.efficiency for row in rows]
                axes.plot(devices, efficiency, marker=marker, markersize=4, label=arrangement)
        axes.set_xscale("log", base=2)
        axes.set_title(f"{mode}: {_TITLES[mode]}", fontsize=8, color=INK)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        style(axes, "devices")
        if number == 0:
            axes.set_ylabel("efficiency, % of as many single devices", fontsize=8, color=INK)
            axes.legend(fontsize=8)
    save(path, figure)


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("arrangement", no_wrap=True)
    columns = (
        "devices",
        "ranks",
        "samples a rank",
        "step",
        "arithmetic",
        "exposed",
        "stragglers",
        "input",
        "images/s",
        "efficiency",
        "device-hours",
        "cost",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        step = row.step
        table.add_row(
            row.arrangement,
            str(row.devices),
            str(row.ranks),
            f"{row.samples_of_a_rank}{'' if row.is_even else ', uneven'}",
            f"{step.step_s:.4f} s",
            f"{step.compute_s:.4f}",
            f"{step.exposed_s:.4f}",
            f"{step.straggler_s:.4f}",
            f"{step.waiting_for_input_s:.4f}",
            f"{row.images_per_s:,.1f}",
            f"{row.efficiency:.1%}",
            f"{row.device_hours:,.1f}",
            "" if row.cost is None else f"{row.cost:,.0f}",
        )
    return table
