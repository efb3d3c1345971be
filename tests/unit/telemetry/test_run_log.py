"""A run's records: whole over a resumption, plain under a launcher, of rank 0 alone; and the figures of its speed."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hvd_r2n2.telemetry import RunLog, StepTimes, memory_bytes, over_ranks

PICTURE_HW3 = np.full((8, 8, 3), 200, dtype=np.uint8)


def open_log(
    folder: Path,
    start_step: int = 0,
    *,
    is_root: bool = True,
    is_under_launcher: bool = True,
    tensorboard: bool = False,
) -> RunLog:
    log = RunLog(folder, is_root=is_root, is_under_launcher=is_under_launcher)
    log.begin(start_step, 10, tensorboard=tensorboard)
    return log


def record(folder: Path, start_step: int, steps: list[int], factor: float, tensorboard: bool = False) -> None:
    with open_log(folder, start_step, tensorboard=tensorboard) as log:
        for step in steps:
            log.scalars(step, {"train/loss": factor * step})
            log.scalars(step, {"validation/iou": factor * step + 0.5})


def read(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    record(tmp_path, 0, [1, 2, 3, 4, 5], 1.0, tensorboard=True)
    record(tmp_path, 3, [4, 5, 6], 10.0, tensorboard=True)
    losses = [(entry["step"], entry["train/loss"]) for entry in read(tmp_path) if "train/loss" in entry]
    assert losses == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard", "train.log"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == losses
    assert [event.value for event in events.Scalars("validation/iou")] == [1.5, 2.5, 3.5, 40.5, 50.5, 60.5]


def test_start_that_fails_takes_nothing_back(tmp_path: Path) -> None:
    record(tmp_path, 0, [1, 2, 3], 1.0, tensorboard=True)

    def figures() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "train.log"}

    before = figures()
    with pytest.raises(ValueError, match="other data"), RunLog(tmp_path, is_root=True, is_under_launcher=True) as log:
        log.line("going on from step 2")
        raise ValueError("other data")
    assert figures() == before


@pytest.mark.parametrize("cut", [b'{"step": 3, "train/lo', b"\x00\x00\x00\xff", b'{"step": 3, "train/loss": 3.0}'])
def test_last_line_cut_by_a_crash_does_no_harm(cut: bytes, tmp_path: Path) -> None:
    record(tmp_path, 0, [1, 2], 1.0)
    whole = read(tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(cut)
    record(tmp_path, 2, [3], 1.0)
    assert read(tmp_path) == [*whole, {"step": 3, "train/loss": 3.0}, {"step": 3, "validation/iou": 3.5}]


def test_lines_of_all_resumptions_stay_in_the_log(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with open_log(tmp_path) as log:
            log.line(text)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["first", "second"]


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_under_launcher: bool, kind: str = "xterm-256color"
) -> str:
    """Return what ten steps, of which two are logged, put on a terminal."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", kind)
        patch.setattr(sys, "stdout", terminal)
        with open_log(folder, is_under_launcher=is_under_launcher) as log:
            log.line("[bold]4.5 samples/s[/bold], run in " + "long/" * 60)
            for step in range(1, 11):
                log.step(step, f"loss {step}.5", is_logged=step % 5 == 0)
    return terminal.getvalue()


def test_lines_are_plain_under_a_launcher_and_on_a_terminal_that_cannot_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = shown(tmp_path / "plain", monkeypatch, is_under_launcher=True)
    first = "[bold]4.5 samples/s[/bold], run in " + "long/" * 60
    assert plain.splitlines() == [first, "step 5  loss 5.5", "step 10  loss 10.5"]
    assert shown(tmp_path / "dumb", monkeypatch, is_under_launcher=False, kind="dumb") == plain
    live = shown(tmp_path / "live", monkeypatch, is_under_launcher=False)
    assert "\x1b[" in live
    assert "10/10" in live
    logs = [(tmp_path / name / "train.log").read_text().splitlines() for name in ("plain", "live")]
    assert [[line[20:] for line in log] for log in logs] == [plain.splitlines()] * 2


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path / "run", is_root=False, tensorboard=True) as log:
        log.line("text")
        log.step(1, "text", is_logged=True)
        log.scalars(1, {"train/loss": 1.0})
        log.picture(1, "validation", PICTURE_HW3)
        log.mesh(1, "mesh", np.eye(3), np.array([[0, 1, 2]]))
    with pytest.raises(ZeroDivisionError), open_log(tmp_path / "run", is_root=False):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_reason_of_the_end_is_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such data"), open_log(tmp_path):
        raise ValueError("no such data")
    assert (tmp_path / "train.log").read_text().endswith(" stopped by ValueError: no such data\n")


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@needs_dev_full
def test_full_disk_is_a_warning_once_with_the_name_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.log").symlink_to("/dev/full")
    with open_log(tmp_path) as log:
        log.line("one")
        log.line("two")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["one", "two"]
    assert shown.err.splitlines() == [
        f"warning: {tmp_path}: train.log: No space left on device; training goes on without what belongs there"
    ]
    with pytest.raises(ValueError, match="what failed first"), open_log(tmp_path):
        raise ValueError("what failed first")


class Disk(io.RawIOBase):
    """A file on a disk that may be full."""

    def __init__(self) -> None:
        self.content, self.is_full = b"", False

    def writable(self) -> bool:
        return True

    def write(self, content: memoryview) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.content += content
        return len(content)


def test_full_disk_for_the_output_is_told_once_and_no_line_is_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk), encoding="utf-8"))
    with open_log(tmp_path) as log:
        for text, disk.is_full in (("one", False), ("two", True), ("three", True), ("four", False)):
            log.line(text)
    assert disk.content.decode().splitlines() == ["one", "two", "three", "four"]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}: the output: No space left on device; training goes on without what belongs there",
        f"warning: {tmp_path}: the output: can be written again",
    ]


@needs_dev_full
def test_picture_that_cannot_be_written_is_tried_again_with_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_log(tmp_path) as log:
        (tmp_path / "pictures").write_text("a file where the folder should be")
        log.picture(1, "validation", PICTURE_HW3)
        (tmp_path / "pictures").unlink()
        log.picture(2, "validation", PICTURE_HW3)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["validation-step-00000002.png"]
    first, second = capsys.readouterr().err.splitlines()
    assert "pictures: File exists; training goes on" in first
    assert second.endswith("pictures: can be written again")


@needs_dev_full
def test_full_disk_for_tensorboard_is_told_once_and_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[threading.ExceptHookArgs] = []
    hook = printed.append
    monkeypatch.setattr(threading, "excepthook", hook)
    with open_log(tmp_path, tensorboard=True) as log:
        (events,) = (tmp_path / "tensorboard").iterdir()
        (tmp_path / "full").symlink_to("/dev/full")
        (tmp_path / "full").replace(events)  # at once: the writer's thread opens the file for every event
        log.scalars(1, {"train/loss": 1.0})
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}: tensorboard: No space left on device; training goes on without what belongs there"
    ]
    assert not printed
    assert threading.excepthook is hook
    assert read(tmp_path) == [{"step": 1, "train/loss": 1.0}]


def test_speed_is_that_of_the_whole_batches() -> None:
    times = StepTimes()
    # seconds of the step, waiting for data, waiting for gradients, samples, views
    for step in ((2.0, 0.5, 0.1, 24, 1), (1.0, 0.0, 0.3, 24, 3), (5.0, 1.0, 0.0, 24, 2), (2.0, 0.5, 0.6, 24, 2)):
        times.add(*step)
    assert times.figures() == pytest.approx(
        {
            "speed/samples_per_s": 96 / 10,
            "speed/images_per_s": (24 + 72 + 48 + 48) / 10,
            "time/step_median_s": 2.0,
            "time/step_95th_s": 5.0,
            "time/data_share": 2.0 / 10,
            "time/communication_share": 1.0 / 10,
        }
    )


@pytest.mark.parametrize("count", [1, 2, 10, 20, 21, 100, 1000])
def test_median_and_95th_percentile_are_those_of_numpy(count: int) -> None:
    seconds = np.random.default_rng(count).uniform(0.1, 2, size=count)
    times = StepTimes()
    for step_s in seconds:
        times.add(float(step_s), 0.0, 0.0, 1, 1)
    assert times.figures()["time/step_median_s"] == pytest.approx(np.median(seconds))
    assert times.figures()["time/step_95th_s"] == np.percentile(seconds, 95, method="higher")


def test_memory_of_a_process_is_its_peak() -> None:
    assert np.ones(64 << 20, dtype=np.uint8).sum() == 64 << 20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_bytes = int(status["VmHWM"].removesuffix("kB")) * 1024
    assert memory_bytes(torch.device("cpu")) == pytest.approx(peak_bytes, rel=0.02)


def test_figures_of_all_ranks_are_means_of_shares_the_slowest_speed_sums_of_totals_and_else_maxima() -> None:
    one = {"time/data_share": 0.1, "speed/images_per_s": 30.0, "time/step_median_s": 1.0, "memory/peak_bytes": 7.0}
    other = {"time/data_share": 0.3, "speed/images_per_s": 20.0, "time/step_median_s": 3.0, "memory/peak_bytes": 5.0}
    one["data/replaced_total"], other["data/replaced_total"] = 2.0, 1.0
    assert over_ranks([one, other]) == {
        "time/data_share": pytest.approx(0.2),
        "data/replaced_total": 3.0,
        "speed/images_per_s": 20.0,
        "time/step_median_s": 3.0,
        "memory/peak_bytes": 7.0,
    }
