"""What a benchmark leaves: a table, a JSON file, a picture, traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from typing_extensions import override

from hvd_r2n2.common.files import replacing
from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.common.standard_output import naming_standard_output
from hvd_r2n2.config import Config, to_mapping
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.result import ArmResult
from hvd_r2n2.telemetry.charts import Bar, Comparison, Timeline, draw_comparison
from hvd_r2n2.telemetry.trace import write_trace

_SECTIONS = ("model", "train", "optimizer", "split", "horovod")


def heading(config: Config, machine: Machine, num_views: int) -> str:
    """Return a line that says what is measured."""
    network, train = config.model, config.train
    size = "" if network.classifies else f", {network.voxel_resolution}³, {num_views} view(s)"
    threads = "" if machine.gpus else f", {machine.threads} thread(s) a device"
    return f"{network.name}, width {network.width:g}{size}, {train.dtype}, batch {train.batch_size}{threads}"


def provenance(command: str) -> dict[str, Any]:
    """Return where figures come from, whatever they are of: command, date, hardware and versions."""
    return {
        "command": command,
        "date": now(),
        "hardware": asdict(find_hardware()),
        "versions": asdict(find_versions()),
    }


def origin(config: Config, machine: Machine, command: str) -> dict[str, Any]:
    """Return where figures of a benchmark come from: provenance, processors and settings."""
    settings = to_mapping(config)
    return {
        **provenance(command),
        "threads_per_device": None if machine.gpus else machine.threads,
        "cores_used": list(machine.cores),
        "settings": {name: settings[name] for name in _SECTIONS},
    }


def now() -> str:
    """Return date and time, to the second, with the zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures.

    Raises:
        ValueError: one is infinite or not a number, which JSON does not have.
        OSError: they cannot be written.
    """
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


class _Console(Console):
    """A console whose errors name the standard output; rich ends the process silently where a pipe is closed."""

    @override
    def print(self, *objects: Any, **options: Any) -> None:
        with naming_standard_output():
            super().print(*objects, **options)

    @override
    def on_broken_pipe(self) -> None:
        raise  # what rich is handling


def wide_console(least_width: int) -> Console:
    """Return a console of at least this width: a narrow terminal, or none, must not cut figures."""
    console = _Console(highlight=False)
    console.width = max(console.width, least_width)
    return console


def print_table(title: str, arms: Sequence[Mapping[str, Any]], left_out: Mapping[str, str], *, ranks: bool) -> None:
    """Print a row an arm; `ranks` shows what was waited for gradients, otherwise how busy devices were."""
    table = Table(title=title, title_justify="left")
    is_predicted = any("predicted_s" in arm for arm in arms)
    last = ("samples", "exposed", "waited") if ranks else ("busy", "predicted") if is_predicted else ("busy",)
    table.add_column("arm")
    for name in ("devices", "step", "quartiles", "images/s", "speed-up", "of bound", "memory/device", *last):
        table.add_column(name, justify="right")
    for arm in arms:
        low, high = arm["quartiles_s"]
        cells = [
            arm["name"],
            str(len(arm["devices"])),
            f"{arm['median_s']:.3f} s",
            f"{low:.3f} to {high:.3f}",
            f"{arm['images_per_s']:.2f}",
            _number(arm["speedup"], "×"),
            _number(arm["of_bound"], ""),
            f"{arm['peak_memory_bytes'] / 2**20:.0f} MiB",
        ]
        if ranks:
            cells.append(str(arm["samples_per_step"]))
            cells += [f"{arm[key]:.3f} s" if key in arm else "" for key in ("exposed_communication_s", "waiting_s")]
        else:
            cells.append(" ".join(f"{share:.0%}" for share in arm.get("busy_by_device", ())))
            if is_predicted:
                known = "predicted_s" in arm
                cells.append(f"{arm['predicted_s']:.3f} s {arm['prediction_error']:+.0%}" if known else "")
        table.add_row(*cells)
    console = wide_console(120)
    console.print(table)
    for name, reason in left_out.items():
        console.print(f"left out: {name} ({reason})", markup=False)


def draw(path: Path, title: str, arms: Sequence[Mapping[str, Any]], results: Sequence[ArmResult]) -> None:
    """Draw speed-ups, memory and the typical step of each split.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    bars = [
        Bar(arm["name"], arm["speedup"], *arm["speedup_quartiles"])
        if arm["speedup"] is not None
        else Bar(arm["name"], arm["images_per_s"], arm["images_per_s"], arm["images_per_s"])
        for arm in arms
    ]
    unit = "images/s" if any(arm["speedup"] is None for arm in arms) else "speed-up over one device"
    memory = {arm["name"]: [device["peak"] for device in arm["memory_by_device"]] for arm in arms}
    timelines = [Timeline(result.arm.name, result.devices, result.tasks) for result in results if result.tasks]
    draw_comparison(path, Comparison(title, unit, bars, memory, timelines))


def write_traces(folder: Path, results: Sequence[ArmResult]) -> list[Path]:
    """Write the typical step of each split as NAME.json for Perfetto; return the files.

    Raises:
        OSError: one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for result in results:
        if result.tasks:
            written.append(folder / f"{result.arm.name}.json")
            write_trace(written[-1], result.tasks, result.devices)
    return written


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3f}{unit}"
