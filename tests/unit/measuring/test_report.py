"""Where tables of measurements are printed."""

from __future__ import annotations

import pytest

from hvd_r2n2.measuring.report import wide_console


def test_narrow_terminal_does_not_cut_figures_and_a_wide_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert wide_console(150).width == 150
    monkeypatch.setenv("COLUMNS", "200")
    assert wide_console(150).width == 200
