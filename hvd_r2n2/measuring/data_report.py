"""What `benchmark data` leaves besides its JSON file: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hvd_r2n2.measuring.report import wide_console
from hvd_r2n2.telemetry.charts import Bar, Comparison, draw_comparison

_REFERENCE = "decode"


def title_of(content: Mapping[str, Any]) -> str:
    """Say what was measured."""
    data, train = content["data"], content["settings"]["train"]
    views = f"{train['min_views']} to {train['max_views']} views"
    return f"{data['pictures']:,} pictures of {data['models']:,} models, batches of {train['batch_size']}, {views}"


def print_rates(content: Mapping[str, Any]) -> None:
    """Print a row an arm, and the memory."""
    table = Table(title=title_of(content), title_justify="left")
    table.add_column("arm")
    for name in ("cores", "images/s", "quartiles", "images/s a core", "of decode, a core", "quartiles"):
        table.add_column(name, justify="right")
    for arm in content["arms"]:
        low, high = arm["images_per_s_quartiles"]
        ratio_low, ratio_high = arm["of_decode_quartiles"]
        table.add_row(
            arm["name"],
            str(arm["cores"]),
            f"{arm['images_per_s']:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{arm['images_per_s_a_core']:,.0f}",
            f"{arm['of_decode_a_core']:.2f}×",
            f"{ratio_low:.2f} to {ratio_high:.2f}",
        )
    console = wide_console(120)
    console.print(table)
    for arm in content["arms"]:
        console.print(f"{arm['name']}: {arm['what']}", markup=False)
    for name, reason in content["left_out"].items():
        console.print(f"left out: {name} ({reason})", markup=False)
    for line in _memory_lines(content):
        console.print(line, markup=False)


def draw_rates(path: Path, content: Mapping[str, Any]) -> None:
    """Draw the arms' pictures a second and core over those of decoding.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    bars = [Bar(arm["name"], arm["of_decode_a_core"], *arm["of_decode_quartiles"]) for arm in content["arms"]]
    unit = "images/s of a core over those of one that decodes"
    draw_comparison(path, Comparison(title_of(content), unit, bars, memory={}, reference=_REFERENCE))


def _memory_lines(content: Mapping[str, Any]) -> list[str]:
    """Say what memory the processes had."""
    size = content["data"]["cache_bytes"]
    lines = [f"cache: {size / 2**20:.0f} MiB, mapped by {len(content['memory'])} process(es)"]
    for number, memory in enumerate(content["memory"]):
        mib = {name: f"{value / 2**20:.0f} MiB" for name, value in memory.items()}
        lines.append(
            f"process {number}: {mib['resident']} resident, {mib['proportional']} with shared pages divided, "
            f"{mib['private']} its own; of the cache {mib['cache_resident']} and {mib['cache_proportional']}; "
            f"a batch has {memory['batch'] / 2**20:.1f} MiB"
        )
    return lines
