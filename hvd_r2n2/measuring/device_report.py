"""What `benchmark device` shows: tables and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hvd_r2n2.measuring.report import wide_console
from hvd_r2n2.telemetry.breakdown_chart import BreakdownPart, BreakdownRow, draw_breakdown

_LEAST_WIDTH = 150
_COLUMN_WIDTH = 19
_TITLES = {"training": "training step", "inference": "inference, batch", "single": "inference, one picture"}


def print_device_tables(title: str, content: Mapping[str, Any]) -> None:
    """Print figures and where the time went, a row an arm, for each part that was measured."""
    console = wide_console(max(_LEAST_WIDTH, (2 + len(content["arms"])) * _COLUMN_WIDTH))
    console.print(title, markup=False)
    for part, arms in _parts(content):
        console.print(_figures(_TITLES[part], arms))
        console.print(_breakdown(f"{_TITLES[part]}: where the time went (another step, profiled)", arms))
        for dtype, rate in content["matrix_rates"][part].items():
            shapes = ", ".join(f"{shape} {found / 1e9:,.0f}" for shape, found in rate["by_shape"].items())
            console.print(f"products of matrices, {dtype}: {rate['best'] / 1e9:,.0f} GFLOP/s at best ({shapes})")
    for note in content["notes"]:
        console.print(note, markup=False)


def draw_device(path: Path, title: str, content: Mapping[str, Any]) -> None:
    """Draw images/s and where the time went.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: the format is not known.
        OSError: the picture cannot be written.
    """
    parts = [BreakdownPart(_TITLES[part], [_row(arm) for arm in arms]) for part, arms in _parts(content)]
    draw_breakdown(path, title, parts)


def _parts(content: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give each part that was measured with the figures of its arms, their names among them."""
    for part in content["matrix_rates"]:
        yield part, [arm if part == "training" else {"name": arm["name"], **arm[part]} for arm in content["arms"]]


def _figures(title: str, arms: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    columns = (
        "step",
        "quartiles",
        "images/s = views/s",
        "samples/s",
        "of plain",
        "of matrix rate",
        "memory",
        "process",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for arm in arms:
        low, high = arm["quartiles_s"]
        table.add_row(
            arm["name"],
            f"{arm['median_s']:.4f} s",
            f"{low:.4f} to {high:.4f}",
            f"{arm['images_per_s']:.2f}",
            f"{arm['samples_per_s']:.2f}",
            f"{arm['ratio_to_plain']:.2f}×",
            f"{arm['of_matrix_rate']:.1%}",
            f"{arm['peak_memory_bytes'] / 2**20:.0f} MiB",
            f"{arm['resident_bytes'] / 2**20:.0f} MiB",
        )
    return table


def _breakdown(title: str, arms: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row an arm: seconds and share of each kind of operation that any of them has."""
    kinds = [kind for kind in arms[0]["breakdown"] if any(arm["breakdown"][kind]["share"] >= 0.001 for arm in arms)]
    table = Table(title=title, title_justify="left")
    table.add_column("operation")
    for arm in arms:
        table.add_column(arm["name"], justify="right")
    for kind in kinds:
        parts = [arm["breakdown"][kind] for arm in arms]
        table.add_row(kind, *(f"{part['seconds']:.4f} s {part['share']:>5.1%}" for part in parts))
    table.add_row("all", *(f"{arm['profiled_step_s']:.4f} s      " for arm in arms), style="bold")
    return table


def _row(arm: Mapping[str, Any]) -> BreakdownRow:
    shares = {kind: found["share"] for kind, found in arm["breakdown"].items()}
    return BreakdownRow(arm["name"], arm["images_per_s"], arm["ratio_to_plain"], arm["of_matrix_rate"], shares)
