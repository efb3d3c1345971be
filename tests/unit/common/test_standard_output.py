"""Results go to every place that takes them, and what could not be written is named, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvd_r2n2.common.standard_output import show, write_and_show

FULL = Path("/dev/full")


def write(path: Path) -> None:
    path.write_text("found")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_all_that_cannot_be_written_is_named_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, there = tmp_path / "gone" / "found.json", tmp_path / "found.csv"
    full = FULL.open("w")
    monkeypatch.setattr("sys.stdout", full)
    with pytest.raises(OSError, match="found") as caught:
        write_and_show(lambda: show("found"), (gone, write), (None, write), (there, write))
    with pytest.raises(OSError, match="No space left"):  # what it still has to write, it cannot
        full.close()
    reasons = f"{gone}: No such file or directory; standard output: No space left on device"
    assert str(caught.value) == reasons
    assert there.read_text() == "found"


def test_one_that_cannot_be_written_is_all_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone" / "found.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_and_show(lambda: show("found"), (gone, write))
    assert caught.value.filename == str(gone)
    assert capsys.readouterr().out == "found\n"


def test_a_fault_of_ours_is_not_lost_among_what_cannot_be_written(tmp_path: Path) -> None:
    def draw(path: Path) -> None:
        raise KeyError(path.name)

    with pytest.raises(KeyError, match="picture"):
        write_and_show(lambda: show("found"), (tmp_path / "gone" / "found.json", write), (tmp_path / "picture", draw))
