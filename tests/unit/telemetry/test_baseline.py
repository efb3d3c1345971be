"""The one-device baseline: the same after a round trip, and refused where machine, versions or settings differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hvd_r2n2.common.hardware import find_hardware, find_versions
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.telemetry.baseline import Baseline, load_baseline, settings_of, write_baseline

CPU = torch.device("cpu")
SETTINGS = ("train.batch_size=8", "train.min_views=1", "train.max_views=2", "model.cross=null")


def config(*overrides: str) -> Config:
    return load_config(None, [*SETTINGS, *overrides])


def baseline(**changes: Any) -> Baseline:
    measured = Baseline(
        device="cpu",
        threads=1,
        accumulation=4,
        times_s={1: (2.0, 1.0, 4.0), 2: (3.0, 3.5, 3.25)},
        settings=settings_of(config()),
        hardware=find_hardware(),
        versions=find_versions(),
        trials={4: 3.0, 1: 3.5},
        date="2026-01-02T03:04:05+00:00",
        command="python -m hvd_r2n2.benchmark baseline",
    )
    return replace(measured, **changes)


def written(folder: Path, value: Baseline) -> Path:
    write_baseline(folder / "baseline.json", value)
    return folder / "baseline.json"


def test_baseline_is_the_same_after_a_round_trip(tmp_path: Path) -> None:
    assert load_baseline(written(tmp_path, baseline()), config(), CPU, 1) == baseline()
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.json"]


def test_file_says_what_was_measured(tmp_path: Path) -> None:
    content = json.loads(written(tmp_path, baseline()).read_text())
    assert content["micro_batch"] == 2
    assert content["steps_by_views"]["1"] == {
        "median_s": 2.0,
        "quartiles_s": [1.5, 3.0],
        "images_per_s": 4.0,  # 8 samples of 1 view in 2 s
        "times_s": [2.0, 1.0, 4.0],
    }
    assert content["steps_by_views"]["2"]["images_per_s"] == pytest.approx(8 * 2 / 3.25)


def test_expected_time_of_steps_with_various_views_is_the_sum_of_medians() -> None:
    assert sum(baseline().expected_s(views) for views in (1, 2, 2)) == 2 + 3.25 + 3.25


def test_views_that_were_not_measured_have_no_expected_time() -> None:
    with pytest.raises(ValueError, match=r"the baseline was measured for 1, 2 view\(s\), not 3 \(measure again"):
        baseline().expected_s(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardware": replace(find_hardware(), cpu="Abacus")}, r"processor: Abacus there, .* here"),
        ({"hardware": replace(find_hardware(), cores=999)}, r"cores: 999 there, \d+ here"),
        ({"versions": replace(find_versions(), torch="0.1")}, r"torch: 0\.1 there, \d.* here"),
        ({"versions": replace(find_versions(), hvd_r2n2="9")}, r"hvd_r2n2: 9 there"),
        ({"device": "cuda"}, "device: cuda there, cpu here"),
        ({"threads": 2}, "threads of a device: 2 there, 1 here"),
        ({"times_s": {1: (1.0,)}}, "views: no times of 2"),
    ],
)
def test_baseline_of_another_machine_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, baseline(**changes))
    with pytest.raises(ValueError, match=rf"baseline\.json: this baseline does not fit: {message}.*measure again"):
        load_baseline(path, config(), CPU, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=0.5", r"model\.width: 0\.25 there, 0\.5 here"),
        ("model.name=3d-gru-1", r"model\.name: res3d-gru-3 there, 3d-gru-1 here"),
        ("model.voxel_resolution=64", r"model\.voxel_resolution: 32 there, 64 here"),
        ("train.dtype=bfloat16", r"train\.dtype: float32 there, bfloat16 here"),
        ("train.batch_size=16", r"train\.batch_size: 8 there, 16 here"),
        ("train.max_views=4", "views: no times of 3, 4"),
    ],
)
def test_baseline_of_other_settings_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_baseline(written(tmp_path, baseline()), config(override), CPU, 1)


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, baseline(threads=3))
    with pytest.raises(ValueError, match=r"threads.*; .*model\.width.*; .*train\.dtype"):
        load_baseline(path, config("model.width=0.5", "train.dtype=float64"), CPU, 1)


def test_settings_that_do_not_matter_may_differ(tmp_path: Path) -> None:
    other = config("train.steps=5", "optimizer.learning_rate=1", "train.accumulation=2", "train.max_views=1")
    assert load_baseline(written(tmp_path, baseline()), other, CPU, 1) == baseline()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "device": "cpu"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: not a baseline"):
        load_baseline(path, config(), CPU, 1)
