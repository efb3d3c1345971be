"""Pictures of speed and of where the time went: a bar an arm, beside it the shares of its kinds of operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvd_r2n2.common.extras import require
from hvd_r2n2.telemetry.charts import BAR, DPI, GRID, INK, ROW_INCHES, WIDTH_INCHES, save, style

_LEAST_LABELLED = 0.06
"""Share from which there is room for a number."""
_DARK_INK = "#26292e"


@dataclass(frozen=True)
class BreakdownRow:
    """One arm."""

    name: str
    images_per_s: float
    ratio: float
    """To the first arm."""
    of_matrix_rate: float
    shares: Mapping[str, float]
    """By kind of operation: its part of the time; all of them add up to 1."""


@dataclass(frozen=True)
class BreakdownPart:
    """Arms that were measured together."""

    title: str
    rows: Sequence[BreakdownRow]


def draw_breakdown(path: Path, title: str, parts: Sequence[BreakdownPart]) -> None:
    """Draw the parts one below the other into a file, whose ending says the format (png, svg, pdf).

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: the format is not known.
        OSError: the file cannot be written.
    """
    heights = [len(part.rows) + 1.6 for part in parts]
    # Figure alone, not pyplot: nothing global is touched and no display is looked for.
    figure = require("matplotlib.figure").Figure(
        figsize=(WIDTH_INCHES * 1.2, ROW_INCHES * (sum(heights) + 3) + 0.8), dpi=DPI, layout="constrained"
    )
    figure.suptitle(title, fontsize=11, color=INK)
    grid = figure.add_gridspec(len(parts), 2, height_ratios=heights, width_ratios=(2, 3))
    kinds = [kind for kind in parts[0].rows[0].shares if any(row.shares[kind] > 0.002 for p in parts for row in p.rows)]
    palette = require("matplotlib").colormaps["tab20"].colors
    colours = {kind: palette[number] for number, kind in enumerate(parts[0].rows[0].shares)}
    for number, part in enumerate(parts):
        _draw_speed(figure.add_subplot(grid[number, 0]), part)
        _draw_shares(figure.add_subplot(grid[number, 1]), part, kinds, colours)
    patch = require("matplotlib.patches").Patch
    handles = [patch(color=colours[kind], label=kind) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    save(path, figure)


def _draw_speed(axes: Any, part: BreakdownPart) -> None:
    positions = range(len(part.rows))
    values = [row.images_per_s for row in part.rows]
    axes.barh(positions, values, color=BAR, height=0.62)
    for position, row in zip(positions, part.rows, strict=True):
        text = f" {row.images_per_s:.3g}: {row.ratio:.2f}×, {row.of_matrix_rate:.0%} of the matrix rate"
        is_long = row.images_per_s > 0.55 * max(values)
        side, colour = ("right", "white") if is_long else ("left", _DARK_INK)
        axes.text(row.images_per_s, position, text + " ", va="center", ha=side, color=colour, fontsize=8)
    _finish(axes, part, "images/s (median)")
    axes.grid(axis="x", color=GRID)


def _draw_shares(axes: Any, part: BreakdownPart, kinds: Sequence[str], colours: Mapping[str, Any]) -> None:
    for position, row in enumerate(part.rows):
        left = 0.0
        for kind in kinds:
            share = row.shares[kind]
            axes.barh(position, share, left=left, height=0.72, color=colours[kind], edgecolor="white", linewidth=0.3)
            if share >= _LEAST_LABELLED:
                middle = left + share / 2
                axes.text(middle, position, f"{share:.0%}", va="center", ha="center", fontsize=7.5, color=_DARK_INK)
            left += share
    _finish(axes, part, "share of a profiled step")
    axes.set_yticklabels([])
    axes.set_xlim(0, 1)


def _finish(axes: Any, part: BreakdownPart, label: str) -> None:
    axes.set_yticks(range(len(part.rows)), [row.name for row in part.rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_title(part.title, fontsize=9, color=INK, loc="left")
    style(axes, label)
