"""The trace of a step, for Perfetto (https://ui.perfetto.dev), chrome://tracing or TensorBoard: one row a device."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hvd_r2n2.common.files import replacing

_RANK = 0
"""Shown as a process."""


class TimedTask(Protocol):
    """When something ran on a device; seconds from the start of the step."""

    @property
    def label(self) -> str:
        """Name it for people."""
        ...

    @property
    def device(self) -> int:
        """Number of the device."""
        ...

    @property
    def kind(self) -> str:
        """`forward`, `backward` or what else it is."""
        ...

    @property
    def micro_batch(self) -> int:
        """Number of the micro-batch."""
        ...

    @property
    def start_s(self) -> float:
        """Start."""
        ...

    @property
    def end_s(self) -> float:
        """End."""
        ...


def write_trace(path: Path, tasks: Iterable[TimedTask], devices: Sequence[str]) -> None:
    """Write one step of rank 0 as Chrome trace events.

    Source: the Trace Event Format (complete events X, metadata M; times in microseconds).

    Args:
        path: file to write (JSON).
        tasks: what ran.
        devices: names of the rank's devices, by number.

    Raises:
        OSError: it cannot be written.
    """
    events: list[dict[str, Any]] = [_named("process_name", None, "rank 0")]
    for number, name in enumerate(devices):
        events.append(_named("thread_name", number, name))
        events.append(
            {"name": "thread_sort_index", "ph": "M", "pid": _RANK, "tid": number, "args": {"sort_index": number}}
        )
    for task in sorted(tasks, key=lambda task: (task.device, task.start_s)):
        events.append(
            {
                "name": task.label,
                "cat": task.kind,
                "ph": "X",
                "ts": task.start_s * 1e6,
                "dur": (task.end_s - task.start_s) * 1e6,
                "pid": _RANK,
                "tid": task.device,
                "args": {"kind": task.kind, "micro_batch": task.micro_batch},
            }
        )
    with replacing(path) as partial:
        partial.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n", encoding="utf-8")


def _named(what: str, device: int | None, name: str) -> dict[str, Any]:
    thread = {} if device is None else {"tid": device}
    return {"name": what, "ph": "M", "pid": _RANK, **thread, "args": {"name": name}}
