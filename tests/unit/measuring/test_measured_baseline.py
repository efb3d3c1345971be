"""The baseline that is measured: for the devices that training has with the same settings, once, with a warning."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
import torch

from hvd_r2n2 import benchmark
from hvd_r2n2.comm import Alone
from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.measuring import baseline, rounds
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.baseline import measure_baseline
from hvd_r2n2.measuring.comparison import Request
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import Done, Ready
from hvd_r2n2.telemetry.baseline import load_baseline
from hvd_r2n2.train import _with_baseline
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.tasks import resolve

ON_CPU = ("train.device=cpu", "train.batch_size=4", "log.baseline=measure")
ALEXNET = ("model.name=alexnet", "model.width=0.0625")


class Quick:
    """A team without processes, whose steps take two seconds, of which it computes `busy_s`."""

    busy_s = 2.0
    count = 0

    def __init__(self, arm: ArmSpec, machine: Machine, folder: Path) -> None:
        type(self).count += 1

    def prepare(self, arm: ArmSpec, config: Config) -> Ready:
        return Ready(("cpu:0",))

    def step(self, num_views: int) -> list[Done]:
        return [Done(0.0, 2.0, self.busy_s, 0.0, (DeviceMemory(1, 1, 2, 1),), resident_bytes=1, taken_bytes=1)]

    def __enter__(self) -> Quick:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Second(Alone):
    """A rank beside another one on its host."""

    size = local_size = 2


@pytest.fixture(autouse=True)
def _quick_teams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Quick, "count", 0)
    for module in (baseline, rounds):
        monkeypatch.setattr(module, "Team", Quick)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def asked(report: list[str]) -> Request:
    return Request(rounds=2, warmup=1, accumulation=1, command="a test", report=report.append)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.cpu_threads=3",),
        ("split.strategy=spatial",),
        ("split.strategy=spatial", "train.cpu_threads=5"),
        ("split.strategy=pipeline", "split.devices=[cpu:0,cpu:1,cpu:2]", "train.cpu_threads=6"),
        ALEXNET,
        (*ALEXNET, "split.strategy=kernel", "split.cross=[conv3]"),
    ],
)
def test_measured_baseline_fits_the_run_that_it_was_measured_for(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = _with_baseline(load_config(None, [*ON_CPU, *overrides]), tmp_path, Alone(), print)
    assert config.log.baseline == str(tmp_path / "baseline.json")
    resolved = resolve(config)
    placement = place_rank(resolved, Alone(), lambda text: None)
    load_baseline(tmp_path / "baseline.json", resolved, placement.devices[0], placement.threads_per_device)


def test_a_baseline_that_fits_is_kept_and_another_one_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text("{}")  # of a start that failed
    wide = load_config(None, [*ON_CPU, "model.width=0.5"])
    for config, teams, why in (
        (load_config(None, ON_CPU), 2, r"not a baseline: KeyError\('format'\)"),
        (wide, 4, r"this baseline does not fit: model\.width: 0\.25 there, 0\.5 here"),
        (wide, 4, None),
    ):
        said: list[str] = []
        _with_baseline(config, tmp_path, Alone(), said.append)
        assert Quick.count == teams
        content = json.loads((tmp_path / "baseline.json").read_text())
        assert content["settings"]["model.width"] == config.model.width
        if why is None:
            assert said == []
        else:
            assert re.fullmatch(
                rf"log\.baseline: {re.escape(str(tmp_path))}/baseline\.json: {why}; it is measured again", said[0]
            )


def test_a_baseline_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "baseline.json").mkdir()
    with pytest.raises(IsADirectoryError):
        _with_baseline(load_config(None, ON_CPU), tmp_path, Alone(), print)
    assert Quick.count == 0


def test_several_ranks_do_not_measure_but_may_have_what_one_has_measured(tmp_path: Path) -> None:
    config = load_config(None, ON_CPU)
    with pytest.raises(ValueError, match=r"log\.baseline: measure is for a single rank.* baseline --ranks 2` with the"):
        _with_baseline(config, tmp_path, Second(), print)
    named = _with_baseline(config, tmp_path, Alone(), print)
    assert _with_baseline(config, tmp_path, Second(), print) == named
    assert Quick.count == 2


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        ((), len(os.sched_getaffinity(0))),
        (("--ranks", "2"), max(1, len(os.sched_getaffinity(0)) // 2)),
        (("--ranks", "2", "--set", "train.cpu_threads=3"), 3),
        (("--set", "train.cpu_threads=6", "--set", "split.strategy=kernel"), 3),
    ],
)
def test_the_command_measures_for_the_same_settings(arguments: tuple[str, ...], threads: int, tmp_path: Path) -> None:
    out = tmp_path / "baseline.json"
    settings = [word for override in (*ALEXNET, "train.device=cpu") for word in ("--set", override)]
    benchmark.main(["baseline", *settings, *arguments, "--out", str(out)])
    content = json.loads(out.read_text())
    assert content["threads"] == threads
    assert content["settings"]["model.num_classes"] == len(CATEGORIES)


def test_a_disturbed_baseline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    config = load_config(None, [*ON_CPU, "train.cpu_threads=1"])
    measure_baseline(resolve(config), asked(said))
    assert not any("warning" in text for text in said)
    monkeypatch.setattr(Quick, "busy_s", 1.5)
    found = measure_baseline(resolve(config), asked(said))
    assert "warning: other programs used the processors (one-device): measure again without" in said
    assert found.times_s == dict.fromkeys(config.view_counts, (2.0, 2.0))
