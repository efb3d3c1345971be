"""Finished runs of the training command side by side: how fast each was, and how good it has become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from hvd_r2n2.common.files import read_json
from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import load_config, to_mapping
from hvd_r2n2.measuring.report import wide_console
from hvd_r2n2.telemetry.charts import Bar, Comparison, draw_comparison

_LEAST_WIDTH = 140
_SCORES = ("iou", "accuracy")
"""What a run's summary has, by its task."""


@dataclass(frozen=True)
class GatheredRun:
    """One finished run."""

    path: Path
    """Its directory."""
    ranks: int
    """How many trained it (those of its last piece, if it was resumed)."""
    settings: Mapping[str, object]
    """All, by dotted name."""
    images_per_s: Spread
    """Over the lines of its metrics."""
    peak_bytes: int
    """Most memory that any rank's first device held."""
    summary: Mapping[str, Any]
    """As in summary.json."""

    @property
    def score(self) -> tuple[str, float]:
        """Name and value of what it reached on the test part."""
        name = next(name for name in _SCORES if name in self.summary)
        return name, float(self.summary[name])


@dataclass(frozen=True)
class Gathered:
    """Runs in the order that they were named in, by ranks first."""

    runs: Sequence[GatheredRun]
    """Those that have finished."""
    left_out: Mapping[str, str]
    """The others, and why."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Settings that are not the same in all runs."""
        first = self.runs[0].settings
        return tuple(key for key in first if any(run.settings[key] != first[key] for run in self.runs))

    def speedup(self, run: GatheredRun) -> float:
        """Return its throughput over that of the first run, which has the fewest ranks."""
        return run.images_per_s.median / self.runs[0].images_per_s.median

    def efficiency(self, run: GatheredRun) -> float:
        """Return the speed-up over that of the number of ranks."""
        return self.speedup(run) * self.runs[0].ranks / run.ranks

    def content(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        rows = [
            {
                "run": str(run.path),
                "ranks": run.ranks,
                "settings": {key: run.settings[key] for key in self.differing},
                "images_per_s": run.images_per_s.median,
                "images_per_s_quartiles": list(run.images_per_s.quartiles),
                "speedup": self.speedup(run),
                "efficiency": self.efficiency(run),
                "peak_memory_bytes": run.peak_bytes,
                "summary": dict(run.summary),
            }
            for run in self.runs
        ]
        return {"runs": rows, "left_out": dict(self.left_out)}


def read_runs(paths: Sequence[Path]) -> Gathered:
    """Read runs.

    Raises:
        ValueError: none of them has finished; says why.
    """
    runs, left_out = [], dict[str, str]()
    for path in paths:
        try:
            runs.append(_read(path))
        except (OSError, ValueError, KeyError) as error:
            left_out[str(path)] = f"{error}"
    if not runs:
        raise ValueError("; ".join(f"{path}: {why}" for path, why in left_out.items()))
    return Gathered(sorted(runs, key=lambda run: run.ranks), left_out)


def print_runs(gathered: Gathered) -> None:
    """Print a row a run."""
    table = Table(title="speed-up and efficiency are those over the first row", title_justify="left")
    table.add_column("run")
    for name in (
        "ranks",
        *gathered.differing,
        "images/s",
        "quartiles",
        "speed-up",
        "efficiency",
        "memory/device",
        "test",
    ):
        table.add_column(name, justify="right")
    for run in gathered.runs:
        low, high = run.images_per_s.quartiles
        name, value = run.score
        table.add_row(
            run.path.name,
            str(run.ranks),
            *(str(run.settings[key]) for key in gathered.differing),
            f"{run.images_per_s.median:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{gathered.speedup(run):.2f}×",
            f"{gathered.efficiency(run):.0%}",
            f"{run.peak_bytes / 2**20:.0f} MiB",
            f"{name} {value:.4f}",
        )
    console = wide_console(_LEAST_WIDTH)
    console.print(table)
    for path, why in gathered.left_out.items():
        console.print(f"left out: {path} ({why})", markup=False)


def draw_runs(path: Path, gathered: Gathered) -> None:
    """Draw throughputs and memory.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    names = [f"{run.path.name} ({run.ranks} rank{'s' * (run.ranks > 1)})" for run in gathered.runs]
    bars = [
        Bar(name, run.images_per_s.median, *run.images_per_s.quartiles)
        for name, run in zip(names, gathered.runs, strict=True)
    ]
    memory = {name: [run.peak_bytes] for name, run in zip(names, gathered.runs, strict=True)}
    draw_comparison(path, Comparison(f"{len(bars)} run(s)", "images/s", bars, memory))


def _read(path: Path) -> GatheredRun:
    if not (path / "summary.json").is_file():
        raise ValueError("no summary.json: not a run, not finished yet, or without a test part")
    summary = read_json(path / "summary.json")
    if not isinstance(summary, dict) or not isinstance(summary.get("ranks"), int):
        raise ValueError("summary.json: does not say of how many ranks it is")
    if not isinstance(next((summary[name] for name in _SCORES if name in summary), None), (int, float)):
        raise ValueError(f"summary.json: has no number for {' or '.join(_SCORES)}")
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [record["speed/images_per_s"] for record in records if "speed/images_per_s" in record]
    if not speeds:
        raise ValueError("metrics.jsonl has no lines of training")
    sections = to_mapping(load_config(path / "config.yaml"))
    return GatheredRun(
        path=path,
        ranks=summary["ranks"],
        settings={f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()},
        images_per_s=Spread.of(speeds[1:] or speeds),  # the first has the steps in which all is warmed up
        peak_bytes=int(max(record["memory/peak_bytes"] for record in records if "memory/peak_bytes" in record)),
        summary=summary,
    )
