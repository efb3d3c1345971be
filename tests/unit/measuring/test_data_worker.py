"""What the process of `benchmark data` counts as the work of an arm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.data import cache
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.measuring import data_worker
from hvd_r2n2.measuring.data_worker import Measure, _Worker
from tests.tiny_data import SYNSETS, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def worker(data: Path) -> _Worker:
    return _Worker(load_config(None, ["train.batch_size=3", "train.max_views=2"]), data)


@pytest.mark.parametrize("work", ["decode", "read", "first", "batch", "float"])
def test_every_work_goes_on_until_its_time_is_over_or_its_epoch(work: Any, worker: _Worker) -> None:
    rate = worker.rate(Measure(work, rank=0, size=1, seconds=0.02))
    assert rate.images > 0
    assert rate.cpu_s > 0
    assert rate.end_s - rate.start_s >= 0.02 or work == "first"
    assert (worker.memory().batch > 0) == (work == "batch")


def test_opening_the_data_set_does_not_count_as_reading_it(worker: _Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_s = []

    def timed(*arguments: Any) -> Dataset:
        dataset = open_dataset(*arguments)
        opened_s.append(time.monotonic())
        return dataset

    monkeypatch.setattr(data_worker, "open_dataset", timed)
    rate = worker.rate(Measure("first", rank=0, size=1, seconds=30.0))
    assert len(opened_s) == 1
    assert rate.start_s >= opened_s[0]


def test_only_a_first_epoch_compares_models_with_their_digests(
    worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    digest = cache.model_digest
    monkeypatch.setattr(cache, "model_digest", lambda ref, *rest: (compared.append(ref), digest(ref, *rest))[1])
    worker.rate(Measure("batch", rank=0, size=1, seconds=0.05))
    assert not compared
    trained = [str(worker._dataset.refs[index]) for index in worker._dataset.train]
    assert len(trained) % 3 == 0
    for _ in range(2):
        worker.rate(Measure("first", rank=0, size=1, seconds=30.0))
        assert sorted(compared) == sorted(trained)
        compared.clear()


def test_files_that_are_decoded_are_few_of_all_categories_and_were_read_before(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, decoded = list[Path](), list[Path]()
    read_bytes, decode = Path.read_bytes, data_worker._decode
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    monkeypatch.setattr(data_worker, "_decode", lambda path: (decoded.append(path), decode(path))[1])
    monkeypatch.setattr(data_worker, "MOST_DECODED", 100)
    worker = _Worker(load_config(None, []), data)
    before = set(read)
    worker.rate(Measure("decode", rank=0, size=1, seconds=0.5))
    assert len(decoded) > 96
    files = set(decoded)
    assert len(files) == 96  # 4 models of 24 views
    assert {path.relative_to(data).parts[1] for path in files} == set(SYNSETS)
    assert files <= before
