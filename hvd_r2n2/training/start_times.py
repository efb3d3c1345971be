"""Where the time from the start of the command to the end of the first step goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PHASES = ("imports", "ranks", "baseline", "data", "network", "first step")
_STATUS = Path("/proc/self/stat")
_START_FIELD = 22  # of proc(5), counted from 1


class StartTimes:
    """Seconds of each phase of this process's start, from when the system started it."""

    def __init__(self) -> None:
        """Begin where the process began; what has passed since then belongs to the first phase that is marked."""
        self._last = time.monotonic() - process_age_s()
        self._phases = dict.fromkeys(_PHASES, 0.0)

    def mark(self, phase: str) -> None:
        """Count the time since the last mark to a phase, which may be marked several times."""
        now = time.monotonic()
        self._phases[phase] += now - self._last
        self._last = now

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, without those that took no time at all."""
        return {phase: seconds for phase, seconds in self._phases.items() if seconds > 0}

    def to_text(self) -> str:
        """Say it in one line."""
        parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.phases.items())
        return f"first step after {sum(self._phases.values()):.1f} s ({parts})"


def process_age_s() -> float:
    """Return the seconds since the system started this process, to a hundredth; 0 where it does not say (not Linux)."""
    if not _STATUS.exists():
        return 0.0
    # The second field, the program's name in brackets, may have spaces and brackets of its own.
    fields = _STATUS.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    started_s = int(fields[_START_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
