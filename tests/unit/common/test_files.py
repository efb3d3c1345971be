"""Whether files can be written is known before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvd_r2n2.common.files import check_can_write


def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_write(None, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
    with pytest.raises(ValueError, match=f"{tmp_path} is a directory"):
        check_can_write(tmp_path)
    with pytest.raises(ValueError, match=r"x\.json cannot be written: there is no directory .*/nowhere"):
        check_can_write(tmp_path / "nowhere" / "x.json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ValueError, match=rf"x\.json cannot be written: {tmp_path} may not be written to"):
        check_can_write(tmp_path / "x.json")
