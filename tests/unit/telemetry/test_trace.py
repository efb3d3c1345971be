"""Traces of a step: what the Trace Event Format asks for, one row a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hvd_r2n2.telemetry.trace import write_trace


@dataclass(frozen=True)
class Ran:
    label: str
    device: int
    kind: str
    micro_batch: int
    start_s: float
    end_s: float


TASKS = (Ran("decoder m1", 1, "backward", 1, 0.5, 0.75), Ran("encoder m0", 0, "forward", 0, 0.0, 0.25))


def test_trace_has_a_row_a_device_and_microseconds(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    write_trace(path, TASKS, ["cpu:0", "cpu:1"])
    content = json.loads(path.read_text())
    events = content["traceEvents"]
    assert {event["pid"] for event in events} == {0}
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {0: "cpu:0", 1: "cpu:1"}
    ran = [event for event in events if event["ph"] == "X"]
    assert [(event["name"], event["cat"], event["tid"], event["ts"], event["dur"]) for event in ran] == [
        ("encoder m0", "forward", 0, 0.0, 0.25e6),
        ("decoder m1", "backward", 1, 0.5e6, 0.25e6),
    ]
    assert {event["ph"] for event in events} == {"M", "X"}


def test_no_half_of_a_trace_is_left(tmp_path: Path) -> None:
    write_trace(tmp_path / "step.json", (), ["cpu:0"])
    assert [path.name for path in tmp_path.iterdir()] == ["step.json"]
