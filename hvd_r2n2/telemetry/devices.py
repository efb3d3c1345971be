"""How well the local devices of a split are used: busy shares, bubble, bytes between them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from hvd_r2n2.telemetry.trace import TimedTask


def busy_shares(tasks: Iterable[TimedTask], num_devices: int) -> list[float]:
    """Return the share of the span of all forward and backward runs that each device spent in one of them."""
    runs = [task for task in tasks if task.kind != "optimizer"]
    span_s = max(task.end_s for task in runs) - min(task.start_s for task in runs)
    busy_s = [0.0] * num_devices
    for task in runs:
        busy_s[task.device] += task.end_s - task.start_s
    return [seconds / span_s for seconds in busy_s]


def bubble_share(tasks: Iterable[TimedTask], num_devices: int) -> float:
    """Return the share of all devices' time in that span in which they had nothing to do."""
    return 1.0 - statistics.fmean(busy_shares(tasks, num_devices))


class DeviceFigures:
    """Figures of the devices over the steps since the last line, on this rank."""

    def __init__(self, num_devices: int) -> None:
        self._num_devices = num_devices
        self._shares: list[list[float]] = []
        self._bytes_moved: list[int] = []

    def add(self, tasks: Sequence[TimedTask], bytes_moved: int) -> None:
        """Take one step in."""
        if tasks:
            self._shares.append(busy_shares(tasks, self._num_devices))
            self._bytes_moved.append(bytes_moved)

    def figures(self) -> dict[str, float]:
        """Return means over the steps by name, none if there was none; forget the steps."""
        if not self._shares:
            return {}
        busy = [statistics.fmean(shares) for shares in zip(*self._shares, strict=True)]
        found = {f"split/device_{number}_busy_share": share for number, share in enumerate(busy)}
        found["split/bubble_share"] = 1.0 - statistics.fmean(busy)
        found["split/moved_bytes"] = statistics.fmean(self._bytes_moved)
        self._shares, self._bytes_moved = [], []
        return found
