"""Pictures of measurements: bars with their spread, and what each device did in a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvd_r2n2.common.extras import require
from hvd_r2n2.common.files import replacing
from hvd_r2n2.telemetry.trace import TimedTask

WIDTH_INCHES = 11.0
ROW_INCHES = 0.34
DPI = 130
_FORMATS = ("png", "svg", "pdf")
INK, GRID = "#464a52", "#dcdcd8"
BAR, _MEMORY = "#3a6ea5", ("#7ebacd", "#3a6ea5", "#a9c4d9", "#5b86b0")
_LIGHTEST, _DARKEST = 0.35, 0.85
_COLOUR_MAPS = {"forward": "Blues", "backward": "Oranges", "weights": "Greens"}
_OTHER_KIND = "Greys"


@dataclass(frozen=True)
class Bar:
    """One figure with its quartiles."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Timeline:
    """What ran when on the devices of one arm."""

    name: str
    devices: Sequence[str]
    tasks: Sequence[TimedTask]


@dataclass(frozen=True)
class Comparison:
    """What one picture shows."""

    title: str
    unit: str
    """Of the bars."""
    bars: Sequence[Bar]
    memory: Mapping[str, Sequence[int]]
    """By name: peak bytes of each device; empty where that is not shown."""
    timelines: Sequence[Timeline] = ()
    reference: str = "bound"
    """Name of the bar that a line is drawn at, if it is there."""


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """Draw bars, memory and timelines into a file, whose ending says the format (png, svg, pdf).

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: the format is not known.
        OSError: the file cannot be written.
    """
    rows = [len(comparison.bars), *(len(timeline.devices) for timeline in comparison.timelines)]
    heights = [rows[0] + 1, *(count + 1.2 for count in rows[1:])]
    # Figure alone, not pyplot: nothing global is touched and no display is looked for.
    figure = require("matplotlib.figure").Figure(
        figsize=(WIDTH_INCHES, ROW_INCHES * (sum(heights) + 2) + 0.6), dpi=DPI, layout="constrained"
    )
    figure.suptitle(comparison.title, fontsize=11, color=INK)
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(3, 2))
    _draw_bars(figure.add_subplot(grid[0, 0] if comparison.memory else grid[0, :]), comparison)
    if comparison.memory:
        _draw_memory(figure.add_subplot(grid[0, 1]), comparison)
    longest = max((task.end_s for timeline in comparison.timelines for task in timeline.tasks), default=0.0)
    for number, timeline in enumerate(comparison.timelines, start=1):
        _draw_timeline(figure.add_subplot(grid[number, :]), timeline, longest)
    save(path, figure)


def check_picture(path: Path | None) -> None:
    """See that a picture can be drawn, before minutes are spent on what it shows; None is no picture.

    Raises:
        ValueError: the ending of the path is not a known format.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if path is not None:
        _format(path)
        require("matplotlib.figure")


def save(path: Path, figure: Any) -> None:
    """Write a figure into a file, whose ending says the format.

    Raises:
        ValueError: the format is not known.
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, format=_format(path))


def _format(path: Path) -> str:
    ending = path.suffix.lower().lstrip(".")
    if ending not in _FORMATS:
        found = f"the ending .{ending} is not known" if ending else "it has no ending"
        raise ValueError(f"{path} cannot be drawn: {found} (.png, .svg or .pdf is needed)")
    return ending


def _draw_bars(axes: Any, comparison: Comparison) -> None:
    positions = range(len(comparison.bars))
    values = [bar.value for bar in comparison.bars]
    spread = [[bar.value - bar.low for bar in comparison.bars], [bar.high - bar.value for bar in comparison.bars]]
    # The median of ratios may lie outside the quartiles of few: a whisker has no negative length.
    spread = [[max(0.0, length) for length in side] for side in spread]
    axes.barh(positions, values, xerr=spread, color=BAR, ecolor=INK, capsize=3, height=0.62)
    for position, bar in zip(positions, comparison.bars, strict=True):
        axes.text(0.01 * max(values), position, f"{bar.value:.2f}", va="center", color="white", fontsize=8)
        if bar.name == comparison.reference:
            axes.axvline(bar.value, color=INK, linestyle="--", linewidth=1)
    _finish(axes, comparison, f"{comparison.unit} (median, quartiles)")


def _draw_memory(axes: Any, comparison: Comparison) -> None:
    for position, bar in enumerate(comparison.bars):
        devices = comparison.memory[bar.name]
        height = 0.62 / len(devices)
        for number, held in enumerate(devices):
            offset = (number - (len(devices) - 1) / 2) * height
            axes.barh(position + offset, held / 2**20, height=0.9 * height, color=_MEMORY[number % len(_MEMORY)])
    _finish(axes, comparison, "peak memory of each device, MiB")
    axes.set_yticklabels([])


def _finish(axes: Any, comparison: Comparison, label: str) -> None:
    axes.set_yticks(range(len(comparison.bars)), [bar.name for bar in comparison.bars], fontsize=9)
    axes.invert_yaxis()
    style(axes, label)
    axes.grid(axis="x", color=GRID)


def _draw_timeline(axes: Any, timeline: Timeline, longest_s: float) -> None:
    """Draw a row a device; light to dark are the micro-batches, in their order."""
    colour_maps = require("matplotlib").colormaps
    last = max((task.micro_batch for task in timeline.tasks), default=0) or 1
    for task in timeline.tasks:
        shade = _LIGHTEST + (_DARKEST - _LIGHTEST) * task.micro_batch / last
        colour = colour_maps[_COLOUR_MAPS.get(task.kind, _OTHER_KIND)](shade)
        length = task.end_s - task.start_s
        axes.barh(task.device, length, left=task.start_s, height=0.8, color=colour, edgecolor="white", linewidth=0.2)
    axes.set_yticks(range(len(timeline.devices)), timeline.devices, fontsize=8)
    axes.set_xlim(0, longest_s * 1.01)
    axes.set_ylim(len(timeline.devices) - 0.5, -0.5)
    style(axes, "")
    axes.set_title(
        f"{timeline.name}: forward blue, backward orange, weights apart from it green; seconds",
        fontsize=8,
        color=INK,
        loc="left",
    )


def style(axes: Any, label: str) -> None:
    """Give axes the look of all pictures, and the horizontal one its label."""
    axes.set_xlabel(label, fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
