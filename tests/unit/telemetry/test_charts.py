"""Pictures of measurements: they are drawn, in the format asked for, and show every arm."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hvd_r2n2.telemetry.charts import Bar, Comparison, Timeline, draw_comparison
from tests.unit.telemetry.test_trace import TASKS

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'hvd_r2n2[plots]')")

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


def test_unknown_format_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="xyz"):
        draw_comparison(tmp_path / "arms.xyz", COMPARISON)
    assert not list(tmp_path.iterdir())
