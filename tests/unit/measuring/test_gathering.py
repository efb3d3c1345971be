"""Runs side by side: figures computed by hand from what the runs recorded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from hvd_r2n2.config import load_config, to_yaml
from hvd_r2n2.gather import main
from hvd_r2n2.measuring.gathering import read_runs
from tests.conftest import run_command


def write_run(run: Path, ranks: int, speeds: list[float], *overrides: str, iou: float = 0.5) -> Path:
    """Write what a finished run leaves; each line of metrics has a speed, and one more is of a validation."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load_config(None, overrides)))
    records: list[dict[str, float]] = [
        {"step": number, "speed/images_per_s": speed, "memory/peak_bytes": 2.0**20 * number}
        for number, speed in enumerate(speeds, start=1)
    ]
    records.append({"step": len(speeds), "validation/iou": 0.4})
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "summary.json").write_text(json.dumps({"ranks": ranks, "iou": iou}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "four", 4, [1, 30, 32, 34], "train.seed=3"),
        write_run(tmp_path / "two", 2, [1, 20, 20, 20], "train.seed=2"),
    ]


def test_speedup_is_over_the_run_with_the_fewest_ranks_without_the_first_line(runs: list[Path]) -> None:
    two, four = read_runs(runs).content()["runs"]
    assert (two["ranks"], two["images_per_s"], two["speedup"], two["efficiency"]) == (2, 20, 1, 1)
    assert (four["ranks"], four["images_per_s"], four["speedup"], four["efficiency"]) == (4, 32, 1.6, 0.8)
    assert four["images_per_s_quartiles"] == [31, 33]
    assert four["peak_memory_bytes"] == 4 * 2**20


def test_file_says_where_its_figures_come_from(runs: list[Path], tmp_path: Path) -> None:
    main([str(runs[0]), "--json", str(tmp_path / "of all.json")])
    content = json.loads((tmp_path / "of all.json").read_text())
    assert content["command"] == f"python -m hvd_r2n2.gather {runs[0]} --json '{tmp_path}/of all.json'"
    assert content["date"].startswith("20")
    assert content["hardware"]["cores"] == os.cpu_count()
    assert content["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(("output", "reason"), [("> /dev/full", "No space left on device"), ("| true", "Broken pipe")])
def test_file_is_written_where_standard_output_cannot_be(
    output: str, reason: str, runs: list[Path], tmp_path: Path
) -> None:
    shell = ("bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "bash")
    done = run_command([*shell, sys.executable, "-m", "hvd_r2n2.gather", *runs, "--json", tmp_path / "all.json"])
    assert done.returncode == 1
    assert done.stderr == f"hvd_r2n2.gather: error: standard output: {reason}\n"
    assert len(json.loads((tmp_path / "all.json").read_text())["runs"]) == 2


def test_what_cannot_be_written_to_a_file_is_shown(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="File name too long"):
        main([str(runs[0]), "--json", str(tmp_path / ("long" * 62))])  # what it is called before it is whole
    assert "32.00" in capsys.readouterr().out


def test_only_settings_that_differ_are_shown(runs: list[Path]) -> None:
    assert [row["settings"] for row in read_runs(runs).content()["runs"]] == [{"train.seed": 2}, {"train.seed": 3}]


def test_run_that_has_not_finished_is_named(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0] / "summary.json").unlink()
    json_file, picture = tmp_path / "all.json", tmp_path / "all.png"
    main([*map(str, runs), "--json", str(json_file), "--picture", str(picture)])
    assert f"left out: {runs[0]} (no summary.json: not a run, not finished yet" in capsys.readouterr().out
    content = json.loads(json_file.read_text())
    assert [row["run"] for row in content["runs"]] == [str(runs[1])]
    assert list(content["left_out"]) == [str(runs[0])]
    with Image.open(picture) as image:
        assert min(image.size) > 100


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ("[]", "does not say of how many ranks"),
        ("{}", "does not say of how many ranks"),
        ('{"ranks": 2}', "has no number for iou or accuracy"),
        ('{"ranks": 2, "iou": null, "accuracy": 0.9}', "has no number for iou or accuracy"),
        ("{", "Expecting property name"),
    ],
)
def test_run_with_a_damaged_summary_is_named(summary: str, message: str, runs: list[Path]) -> None:
    (runs[0] / "summary.json").write_text(summary)
    found = read_runs(runs)
    assert [run.path for run in found.runs] == [runs[1]]
    assert message in found.left_out[str(runs[0])]


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: no summary.json"):
        read_runs([tmp_path / "none"])
