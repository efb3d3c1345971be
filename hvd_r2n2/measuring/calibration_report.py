"""What `plan scale --calibrate` shows: links, allreduces and steps, each measured beside what the model gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.measuring.report import wide_console

_LEAST_WIDTH = 150
_KINDS = {
    "allreduces": "allreduces, to which the links are fitted",
    "steps_of_one_rank": "steps of one rank, predicted from the layers alone",
    "steps": "steps of several ranks, predicted",
    "steps_relative": "their ratios to one rank's step, predicted (without the machine's drift since its layers)",
}


def print_calibration(content: Mapping[str, Any]) -> None:
    """Print a table of links, of allreduces and of steps, and how large the errors are."""
    console = wide_console(_LEAST_WIDTH)
    machine = content["machine"]
    console.print(
        f"{machine['cores']} core(s), one thread a rank; computing is {machine['slowdown']:.2f} times slower while all "
        "cores compute",
        markup=False,
    )
    console.print(_links(content["links"]))
    console.print(_polling(content["polling"]))
    console.print(_allreduces(content["allreduces"]))
    console.print(_steps(content["steps"]))
    for kind, errors in content["errors"].items():
        text = f"error of {_KINDS[kind]}: median {errors['median']:.1%}, largest {errors['largest']:.1%}"
        console.print(text, markup=False)
    for name, reason in content["left_out"].items():
        console.print(f"left out: {name} ({reason})", markup=False)


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("network")
    for name in names:
        table.add_column(name, justify="right")
    return table


def _links(links: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table("links, fitted", "latency", "bandwidth", "an allreduce", "a message of agreement")
    for name, link in links.items():
        table.add_row(
            name,
            f"{link['latency_s'] * 1e6:.1f} µs",
            f"{link['line_bytes_per_s'] / 1e9:.4f} GB/s",
            f"{link['call_s'] * 1e6:.1f} µs",
            f"{link['hop_s'] * 1e6:.1f} µs",
        )
    return table


def _polling(polling: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Table:
    table = _table("what asking again and again takes of the cores", "ranks", "always", "while an allreduce runs")
    for name, by_ranks in polling.items():
        for count, shares in by_ranks.items():
            table.add_row(name, str(count), f"{shares['looking']:.0%}", f"{shares['sending']:.0%} of the rest")
    return table


def _allreduces(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("allreduces alone", "ranks", "tensors", "of KiB", "measured", "quartiles", "fitted", "error")
    for entry in entries:
        table.add_row(
            entry["network"],
            str(entry["ranks"]),
            str(entry["tensors"]),
            f"{entry['bytes'] / 1024:g}",
            f"{entry['median_s'] * 1e3:.2f} ms",
            _quartiles(entry["times_s"], 1e3, 2),
            f"{entry['fitted_s'] * 1e3:.2f} ms",
            f"{entry['error']:+.0%}",
        )
    return table


def _steps(entries: Sequence[Mapping[str, Any]]) -> Table:
    shares = ("error", "of the ratio to one rank", "exposed: predicted", "measured")
    names = ("ranks", "samples a rank", "predicted", "measured", "quartiles", *shares)
    table = _table("training steps, which nothing is fitted to", *names)
    for entry in entries:
        table.add_row(
            entry["network"],
            str(entry["ranks"]),
            str(entry["samples_of_a_rank"]),
            f"{entry['predicted_s']:.3f} s",
            f"{entry['median_s']:.3f} s",
            _quartiles(entry["times_s"], 1, 3),
            f"{entry['error']:+.1%}",
            f"{entry['relative_error']:+.1%}",
            f"{entry['predicted']['exposed_s']:.3f} s",
            f"{entry['exposed_s']:.3f} s",
        )
    return table


def _quartiles(times_s: Sequence[float], factor: float, digits: int) -> str:
    low, high = Spread.of(times_s).quartiles
    return f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"
