"""Lines for people."""

from __future__ import annotations

import pytest

from hvd_r2n2.common.standard_error import say


def test_lines_for_people_are_not_among_results(capsys: pytest.CaptureFixture[str]) -> None:
    say("measuring")
    assert capsys.readouterr() == ("", "measuring\n")
