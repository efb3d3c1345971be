"""Pictures of measurements: they are drawn, in the format asked for, and show every arm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from hvd_r2n2.telemetry.charts import Bar, Comparison, Timeline, check_picture, draw_comparison, save
from tests.unit.telemetry.test_trace import TASKS

Figure = pytest.importorskip(
    "matplotlib.figure", reason="matplotlib is not installed (pip install 'hvd_r2n2[plots]')"
).Figure

COMPARISON = Comparison(
    title="a network",
    unit="speed-up over one device",
    bars=[Bar("one-device", 1.0, 1.0, 1.0), Bar("bound", 1.8, 1.7, 1.9), Bar("kernel", 1.5, 1.55, 1.6)],
    memory={"one-device": [4 << 20], "bound": [4 << 20, 4 << 20], "kernel": [2 << 20, 3 << 20]},
    timelines=[Timeline("kernel", ["cpu:0", "cpu:1"], TASKS)],
)


def test_png_is_a_picture_with_more_than_one_colour(tmp_path: Path) -> None:
    draw_comparison(tmp_path / "arms.png", COMPARISON)
    with Image.open(tmp_path / "arms.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["arms.png"]


def test_svg_names_every_arm(tmp_path: Path) -> None:
    draw_comparison(tmp_path / "arms.svg", COMPARISON)
    text = (tmp_path / "arms.svg").read_text()
    for name in ("one-device", "bound", "kernel", "cpu:1", "a network"):
        assert f"<!-- {name} -->" in text or f">{name}<" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arms.xyz", r"arms\.xyz cannot be drawn: the ending \.xyz is not known \(\.png, \.svg or \.pdf is needed\)$"),
        ("arms", r"arms cannot be drawn: it has no ending \(\.png, \.svg or \.pdf is needed\)$"),
    ],
)
def test_unknown_format_is_said(name: str, message: str, tmp_path: Path) -> None:
    for use in (check_picture, lambda path: draw_comparison(path, COMPARISON), lambda path: save(path, Figure())):
        with pytest.raises(ValueError, match=message):
            use(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "start"), [("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_every_known_format_passes_the_check_and_is_written(name: str, start: bytes, tmp_path: Path) -> None:
    check_picture(tmp_path / name)
    save(tmp_path / name, Figure())
    assert (tmp_path / name).read_bytes().startswith(start)


def test_picture_needs_matplotlib_and_none_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    check_picture(None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib is not installed"):
        check_picture(Path("arms.png"))
