"""Timelines, against ones drawn by hand."""

from __future__ import annotations

from typing import Literal

import pytest

from hvd_r2n2.split.drawing import LEGEND, timeline
from hvd_r2n2.split.kernel import kernel_program
from hvd_r2n2.split.program import Task, TaskTime
from tests.split.lists import expected_times, own, stage

HALVES = (
    stage("layer", ["x:BF"], ["layer:BF"]),
    stage("head", ["layer:BF", own("x:BF")], ["logits:BF"]),
    stage("loss", ["logits:BF", "labels:B"], ["loss:"]),
)


def time(
    device: int, kind: Literal["forward", "backward", "optimizer"], micro_batch: int, start: float, end: float
) -> TaskTime:
    return TaskTime("", device, kind, micro_batch, start, end)


def test_timeline_of_a_pipeline_with_its_bubble() -> None:
    times = [
        time(0, "forward", 0, 0, 1),
        time(0, "forward", 1, 1, 2),
        time(1, "forward", 0, 1, 2),
        time(1, "backward", 0, 2, 4),
        time(0, "backward", 0, 4, 6),
        time(1, "forward", 1, 4, 5),
        time(1, "backward", 1, 5, 7),
        time(0, "backward", 1, 7, 9),
        time(0, "optimizer", 0, 9, 10),
        time(1, "optimizer", 0, 7, 8),
    ]
    assert timeline(times, 2, width=20) == "\n".join(
        [
            "device 0 |0011....aaaa..bbbb**|  70% busy",
            "device 1 |..00aaaa11bbbb**....|  70% busy",
            f"10 s; {LEGEND}",
        ]
    )
    assert timeline(times, 2, width=10).splitlines()[0] == "device 0 |01..aa.bb*|  70% busy"


def test_a_column_shows_what_took_most_of_it() -> None:
    times = [time(0, "forward", 0, 0, 0.3), time(0, "backward", 0, 0.3, 1.0), time(0, "forward", 11, 1.6, 4.0)]
    assert timeline(times, 1, width=4).splitlines()[0] == "device 0 |a.11|  85% busy"
    assert timeline([], 1, width=4).splitlines()[0] == "device 0 |....|   0% busy"


@pytest.mark.parametrize("micro_batches", [(1,), (1, 1)])
def test_expected_times_wait_for_the_other_device(micro_batches: tuple[int, ...]) -> None:
    program = kernel_program(HALVES, 2, micro_batches, 1)

    def seconds(task: Task) -> float:
        """Two of device 1's layer, one of any other forward run, three backward, nothing of the loss."""
        call = program.calls[task.call]
        if call.piece.stages == ("loss",):
            return 0.0
        return 3.0 if task.kind == "backward" else 2.0 if call.piece.name == "layer[1]" else 1.0

    found = {(t.label, t.kind): (t.start_s, t.end_s) for t in expected_times(program, seconds)}
    for number in range(len(micro_batches)):
        # layer 0..2, head 2..3, then backward of both: 3..6..9; the next micro-batch starts at 9.
        start, name = 9.0 * number, f"m{number}"
        assert found[f"layer[0] {name}", "forward"] == (start, start + 1)
        assert found[f"layer[1] {name}", "forward"] == (start, start + 2)
        assert found[f"head[0] {name}", "forward"] == (start + 2, start + 3)
        assert found[f"head[0] {name}", "backward"] == (start + 3, start + 6)
        assert found[f"layer[1] {name}", "backward"] == (start + 6, start + 9)
    drawn = timeline(expected_times(program, seconds), 2, width=9 * len(micro_batches)).splitlines()
    assert drawn[0].split("|")[1] == "".join(("0.0aaaaaa", "1.1bbbbbb")[: len(micro_batches)])
    assert drawn[1].split("|")[1] == "".join(("000aaaaaa", "111bbbbbb")[: len(micro_batches)])
