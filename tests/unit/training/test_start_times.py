"""The phases of a start: they are counted from when the system started the process, and add up."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from hvd_r2n2.training import start_times
from hvd_r2n2.training.start_times import StartTimes

AGE = """
import time
from hvd_r2n2.training.start_times import process_age_s
open("/proc/self/comm", "w").write("a) (b) 7 7")  # the name of a program may have anything in it
print(time.monotonic(), process_age_s())
"""


def test_the_age_of_a_process_is_counted_from_its_start() -> None:
    before_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", AGE], stdout=subprocess.PIPE, text=True)
    after_s = time.monotonic()
    output, _ = process.communicate(timeout=60)
    now_s, age_s = map(float, output.split())
    assert before_s - 0.03 < now_s - age_s < after_s + 0.03  # the system counts in hundredths


def test_the_phases_are_the_times_between_marks_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.5, 101.75, 104.0, 104.5, 106.0])
    monkeypatch.setattr(start_times.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(start_times, "process_age_s", lambda: 2.0)
    times = StartTimes()
    for phase in ("imports", "ranks", "network", "data", "network"):
        times.mark(phase)
    assert times.phases == {"imports": 3.5, "ranks": 0.25, "network": 3.75, "data": 0.5}
    # In one order, whatever the marks' was, and without the phases that there were not.
    assert times.to_text() == "first step after 8.0 s (imports 3.5, ranks 0.2, data 0.5, network 3.8)"
    assert sum(times.phases.values()) == 106 - (100 - 2)


def test_a_phase_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        StartTimes().mark("lunch")


def test_without_proc_the_time_before_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_times, "_STATUS", start_times._STATUS / "nowhere")
    assert start_times.process_age_s() == 0.0
    assert re.fullmatch(r"first step after 0\.0 s \(.*\)", StartTimes().to_text())
