import io
import sys

import pytest

from hvd_r2n2.data import progress
from hvd_r2n2.data.progress import show_progress


class Screen(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize("is_dumb", [False, True])
def test_without_a_terminal_that_draws_there_is_a_line_every_ten_seconds(
    is_dumb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 40.0])
    monkeypatch.setattr(sys, "stderr", Screen(is_dumb))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    told: list[str] = []
    with show_progress("decoding", 8, told.append) as advance:
        for _ in range(4):
            advance(2)
    # After 11 s four of eight are done; at the end there is nothing left to tell.
    assert told == ["decoding: 4 of 8, about 11 s left"]


def test_on_a_terminal_there_is_a_bar_and_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    told: list[str] = []
    with show_progress("decoding", 8, told.append) as advance:
        advance(4)
        advance(4)
    assert told == []
    assert "decoding" in screen.getvalue()
