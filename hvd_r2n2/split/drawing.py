"""What became of a program as plain text: a row of time for each device."""

from __future__ import annotations

from collections.abc import Sequence

from hvd_r2n2.split.program import TaskTime

FORWARD = "0123456789"
BACKWARD = "abcdefghij"
WEIGHTS = "ABCDEFGHIJ"
OPTIMIZER = "*"
IDLE = "."
LEGEND = "0 1 2 … forward of a micro-batch, a b c … its backward run, A B C … gradients of weights apart from it, \
* optimizer, . idle"


def timeline(times: Sequence[TaskTime], num_devices: int, width: int = 100) -> str:
    """Draw what ran when: a row a device, time from left to right in `width` characters, and how busy it was.

    A character shows what took most of its time: the micro-batch going forward (0 1 2 …) or backward (a b c …), or what
    is left of that (A B C …; after ten the signs begin again), the optimizer (*), or nothing (.).
    """
    end_s = max((time.end_s for time in times), default=0.0)
    column_s = end_s / width or 1.0
    rows = []
    for device in range(num_devices):
        own = [time for time in times if time.device == device]
        busy = sum(time.end_s - time.start_s for time in own) / (column_s * width)
        rows.append(f"device {device} |{_row(own, column_s, width)}| {busy:4.0%} busy")
    return "\n".join([*rows, f"{end_s:.4g} s; {LEGEND}"])


def _row(times: Sequence[TaskTime], column_s: float, width: int) -> str:
    """Draw one device's time."""
    shares: list[dict[str, float]] = [{IDLE: column_s} for _ in range(width)]
    for time in times:
        sign = _sign(time)
        first = min(int(time.start_s / column_s), width - 1)
        last = min(int(time.end_s / column_s), width - 1)
        for column in range(first, last + 1):
            share = min(time.end_s, (column + 1) * column_s) - max(time.start_s, column * column_s)
            shares[column][sign] = shares[column].get(sign, 0.0) + share
            shares[column][IDLE] -= share
    return "".join(max(share, key=share.__getitem__) for share in shares)


def _sign(time: TaskTime) -> str:
    if time.kind == "optimizer":
        return OPTIMIZER
    signs = {"forward": FORWARD, "backward": BACKWARD, "weights": WEIGHTS}[time.kind]
    return signs[time.micro_batch % len(signs)]
