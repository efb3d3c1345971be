"""Lines for people."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from hvd_r2n2.common.standard_error import say


def test_lines_for_people_are_not_among_results(capsys: pytest.CaptureFixture[str]) -> None:
    say("measuring")
    assert capsys.readouterr() == ("", "measuring\n")


def test_line_that_cannot_be_written_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", Full())
    say("measuring")
