"""Moments in what a device does, and the time between them: of the host's clock on a CPU, of its own on a GPU."""

from __future__ import annotations

import time

import torch

Moment = float | torch.cuda.Event
"""Of a CPU in seconds; of a GPU one that it may not have come to yet."""


def moment(device: torch.device, stream: torch.cuda.Stream | None = None) -> Moment:
    """Return when all is done that the device has been given so far, in this stream or in the thread's current one."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device) if stream is None else stream)
    return event


def seconds_between(start: Moment, end: Moment) -> float:
    """Return the time between two moments of one device, when it has come to the second."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
