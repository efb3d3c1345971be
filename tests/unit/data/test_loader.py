import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data import loader
from hvd_r2n2.data.augment import augment, centre_crop, draw_batch
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.loader import Batch, BatchStream, evaluation_batches, prepare_batch, training_batches
from hvd_r2n2.data.packed import Rectangles
from hvd_r2n2.data.sampler import EpochOrders, global_batch, num_views_of_step

CHAIR = "03001627"
CPU = torch.device("cpu")


@pytest.fixture
def dataset(make_layout: Callable[..., Path]) -> Dataset:
    root = make_layout({CHAIR: [f"m{number}" for number in range(11)]})
    return open_dataset(DataConfig(), root, 32, lambda message: None, 2)


def training(
    dataset: Dataset, rank: int = 0, size: int = 1, threads: int = 2, steps: tuple[int, int] = (0, 4), **changes: object
) -> BatchStream:
    settings: dict[str, object] = {
        "indices": np.arange(1, 11),
        "batch_size": 6,
        "seed": 3,
        "min_views": 1,
        "max_views": 3,
        "config": DataConfig(loader_threads=threads, prefetch_batches=3),
    }
    settings |= changes
    start, end = steps
    return training_batches(dataset, rank=rank, size=size, start_step=start, end_step=end, **settings)  # type: ignore[arg-type]


def take(stream: BatchStream) -> list[Batch]:
    with stream:
        return list(stream)


def tensors(batch: Batch) -> list[torch.Tensor]:
    draws = batch.draws
    flat = [batch.images_VBHWC.transpose(0, 1), batch.targets, batch.indices]
    return [*flat, *(draw.transpose(0, 1) for draw in (draws.offsets_VB2, draws.flips_VB, draws.background_VB3))]


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    assert [batch.step for batch in one] == [batch.step for batch in other]
    for left, right in zip(one, other, strict=True):
        assert left.samples == right.samples
        for mine, theirs in zip(tensors(left), tensors(right), strict=True):
            assert torch.equal(mine, theirs)


def test_a_batch_holds_the_samples_that_the_pure_functions_say(dataset: Dataset) -> None:
    indices = np.array([9, 2, 5, 7, 0, 3, 1])
    for batch in take(training(dataset, indices=indices)):
        places = global_batch(EpochOrders(7, 3), 6, batch.step)
        num_views = num_views_of_step(3, batch.step, 1, 3)
        assert batch.images_VBHWC.shape == (num_views, 6, 137, 137, 4)
        assert batch.indices.tolist() == [indices[place.position] for place in places]
        for position, place in enumerate(places):
            sample = int(indices[place.position])
            (views,), drawn = draw_batch(3, [(place.epoch, sample)], num_views=num_views, num_renderings=2)
            assert batch.samples[position] == str(dataset.refs[sample])
            np.testing.assert_array_equal(batch.images_VBHWC[:, position], dataset.images(sample, views))
            np.testing.assert_array_equal(batch.targets[position], dataset.occupancy(sample))
            assert torch.equal(batch.draws.offsets_VB2[:, position], drawn.offsets_VB2[:, 0])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_any_number_of_ranks_and_threads_reads_the_same_global_batches(
    dataset: Dataset, size: int, threads: int
) -> None:
    alone = take(training(dataset))
    ranks = [take(training(dataset, rank, size, threads)) for rank in range(size)]
    for step, whole in enumerate(alone):
        parts = [batches[step] for batches in ranks]
        assert sum((part.samples for part in parts), ()) == whole.samples
        for joined, expected in zip(zip(*map(tensors, parts), strict=True), tensors(whole), strict=True):
            assert torch.equal(torch.cat(joined), expected)


def test_resuming_at_a_step_continues_the_stream_also_in_the_middle_of_an_epoch(dataset: Dataset) -> None:
    whole = take(training(dataset, steps=(0, 7)))
    assert_same(take(training(dataset, steps=(2, 7))), whole[2:])


def test_another_seed_or_another_epoch_gives_other_draws(dataset: Dataset) -> None:
    (one,) = take(training(dataset, steps=(0, 1)))
    (other,) = take(training(dataset, steps=(0, 1), seed=4))
    assert one.samples != other.samples or not torch.equal(one.draws.background_VB3, other.draws.background_VB3)
    # One sample, batch 1: step = epoch.
    alone = take(training(dataset, indices=np.array([1]), batch_size=1, min_views=3, steps=(0, 2)))
    assert alone[0].samples == alone[1].samples
    assert not torch.equal(alone[0].draws.background_VB3, alone[1].draws.background_VB3)


def test_the_settings_of_augmentation_reach_the_draws(dataset: Dataset) -> None:
    config = DataConfig(random_crop=False, flip_probability=1.0, background=(3, 3))
    for batch in take(training(dataset, config=config)):
        assert (batch.draws.offsets_VB2 == 5).all()
        assert batch.draws.flips_VB.all()
        assert (batch.draws.background_VB3 == 3).all()


def test_there_is_nothing_to_train_on_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="no samples to train on"):
        training(dataset, indices=np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="does not divide among 4 ranks"):
        training(dataset, size=4)
    with pytest.raises(ValueError, match="min_views 3 and max_views 2"):
        training(dataset, min_views=3, max_views=2)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_evaluation_reads_each_sample_once_over_all_ranks(dataset: Dataset, size: int) -> None:
    indices = np.array([4, 0, 10, 3, 7, 1, 2])
    batches = [batch for rank in range(size) for batch in take(evaluation_batches(dataset, indices, 2, 3, rank, size))]
    batches.sort(key=lambda batch: batch.step)
    assert [len(batch.samples) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.indices for batch in batches]).tolist() == indices.tolist()
    for batch in batches:
        for position, sample in enumerate(batch.indices.tolist()):
            np.testing.assert_array_equal(batch.images_VBHWC[:, position], dataset.images(sample, [0, 1]))
            assert batch.samples[position] == str(dataset.refs[sample])


@pytest.mark.parametrize("num_views", [1, 2])
def test_evaluation_takes_the_first_views_and_the_centre_crop(dataset: Dataset, num_views: int) -> None:
    (batch,) = take(evaluation_batches(dataset, np.array([1, 2]), num_views, 4, 0, 1))
    np.testing.assert_array_equal(batch.images_VBHWC[:, 1], dataset.images(2, range(num_views)))
    images, occupancy = prepare_batch(batch, CPU)
    torch.testing.assert_close(images, centre_crop(batch.images_VBHWC), rtol=0, atol=0)
    assert torch.equal(occupancy, batch.targets)
    with pytest.raises(ValueError, match="at least one view"):
        evaluation_batches(dataset, np.array([1]), 0, 4, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_prepared_with_its_own_draws(dataset: Dataset, dtype: torch.dtype) -> None:
    batch = take(training(dataset))[1]
    images, occupancy = prepare_batch(batch, CPU, dtype)
    assert images.dtype == dtype
    assert torch.equal(images, augment(batch.images_VBHWC, batch.draws, dtype))
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert occupancy.dtype == torch.uint8


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hvd_r2n2-loader")]


def test_no_thread_is_left_when_a_stream_ends_is_left_or_fails(dataset: Dataset) -> None:
    stream = training(dataset)
    assert len(stream) == 4
    list(stream)  # to its end, without a close
    assert len(stream) == 0
    assert loader_threads() == []
    assert next(stream, None) is None

    with training(dataset, steps=(0, 1000)) as stream:
        for _ in zip(stream, range(2), strict=False):
            pass
        assert loader_threads() != []
    assert loader_threads() == []
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(stream)

    def leave_early() -> None:
        with training(dataset, steps=(0, 1000)) as stream:
            next(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert loader_threads() == []


def test_an_error_while_reading_is_raised_with_the_samples_name_where_its_batch_is_due(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = take(training(dataset, steps=(0, 2)))
    broken = next(index for index in range(1, 11) if index not in healthy[0].indices.tolist())
    assert broken in healthy[1].indices.tolist()
    rectangles = dataset.rectangles

    def fail(index: int, views: Sequence[int]) -> Rectangles:
        if index == broken:
            raise OSError("the disk is gone")
        return rectangles(index, views)

    monkeypatch.setattr(dataset, "rectangles", fail)
    stream = training(dataset, steps=(0, 5))
    assert_same([next(stream)], healthy[:1])
    with pytest.raises(OSError, match=rf"reading sample {dataset.refs[broken]} for step 2: the disk is gone"):
        next(stream)
    assert loader_threads() == []


@pytest.mark.parametrize("fault", [IndexError, AssertionError, MemoryError, StopIteration])
def test_anything_else_that_happens_while_reading_is_raised_as_it_is_with_its_traceback(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def fail(index: int, views: Sequence[int]) -> Rectangles:
        raise fault

    monkeypatch.setattr(dataset, "rectangles", fail)
    with pytest.raises((fault, RuntimeError)) as caught:
        take(training(dataset))
    error = caught.value.__cause__ or caught.value  # an iterator cannot raise a StopIteration
    assert type(error) is fault
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
    assert loader_threads() == []


def test_no_more_batches_are_made_ahead_than_asked_for(dataset: Dataset) -> None:
    (template,) = take(training(dataset, steps=(0, 1)))
    made: list[int] = []
    enough = threading.Semaphore(0)

    def make(step: int) -> Batch:
        made.append(step)
        enough.release()
        return replace(template, step=step)

    with BatchStream(range(100), make, num_threads=3, prefetch=4) as stream:
        for _ in range(4):
            assert enough.acquire(timeout=10)
        assert sorted(made) == [0, 1, 2, 3]
        assert next(stream).step == 0
        assert enough.acquire(timeout=10)
        assert sorted(made) == [0, 1, 2, 3, 4]
        assert not enough.acquire(timeout=0.05)


def test_the_time_spent_waiting_for_the_last_batch_is_told(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr(loader.time, "perf_counter", lambda: next(clock))
    with training(dataset, steps=(0, 2)) as stream:
        assert stream.wait_s == 0
        next(stream)
        assert stream.wait_s == 2.5
        next(stream)
        assert stream.wait_s == 0.25


def test_closing_does_not_wait_for_the_batches_that_were_not_begun() -> None:
    begun: list[int] = []
    started, gate = threading.Event(), threading.Event()

    def make(step: int) -> Batch:
        begun.append(step)
        started.set()
        gate.wait(timeout=10)
        raise ValueError("never looked at")

    stream = BatchStream(range(1000), make, num_threads=1, prefetch=50)
    assert started.wait(timeout=10)
    threading.Timer(0.05, gate.set).start()
    stream.close()
    assert begun == [0]
    assert loader_threads() == []


def damage(root: Path, dataset: Dataset, sample: int) -> None:
    """Flip a bit of a sample's last picture in the cache, in place, as a failing disk does."""
    cache = dataset._locations[sample].cache
    offset = int(cache._crop_offsets_NV[dataset._locations[sample].position, -1])
    (path,) = root.rglob("*.cache")
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 16]))


def test_sample_damaged_since_the_start_stops_and_is_named(dataset: Dataset, tmp_path: Path) -> None:
    damage(tmp_path, dataset, 4)
    message = r"reading sample {0} for {1}: .*\.cache: damaged at {0}; remove this file"
    with pytest.raises(OSError, match=message.format(dataset.refs[4], r"step [1-4]")):
        take(training(dataset))
    # In evaluation, a replaced sample would make its figures wrong.
    with pytest.raises(OSError, match=message.format(dataset.refs[4], "batch 2 of the evaluation")):
        take(evaluation_batches(dataset, np.arange(11), 1, 4, 0, 1))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_damaged_sample_is_replaced_by_the_same_one_on_any_number_of_ranks(
    dataset: Dataset, tmp_path: Path, size: int
) -> None:
    whole = take(training(dataset))
    for sample in (4, 5, 10):  # the one after 4 is damaged, too, and after the last comes the first
        damage(tmp_path, dataset, sample)
    again = open_dataset(DataConfig(), tmp_path / "root", 32, pytest.fail, 2)
    config = DataConfig(prefetch_batches=3, damaged_samples="replace")
    ranks = [take(training(again, rank, size, config=config)) for rank in range(size)]
    stands_for = {4: 6, 5: 6, 10: 1}
    for step, before in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        indices = torch.cat([part.indices for part in parts]).tolist()
        assert indices == [stands_for.get(index, index) for index in before.indices.tolist()]
        grids = torch.cat([part.targets for part in parts])
        for index, grid in zip(indices, grids, strict=True):
            np.testing.assert_array_equal(grid, again.occupancy(index))
        # Views and augmentation stay those that were drawn for the sample that is damaged.
        offsets = torch.cat([part.draws.offsets_VB2 for part in parts], dim=1)
        assert torch.equal(offsets, before.draws.offsets_VB2)
        told = [text for part in parts for text in part.replaced]
        assert len(told) == sum(index in stands_for for index in before.indices.tolist())
        assert all("takes the place of" in text and "damaged" in text for text in told)


def test_nothing_whole_to_take_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    for sample in (2, 3):
        damage(tmp_path, dataset, sample)
    config = DataConfig(damaged_samples="replace")
    with pytest.raises(OSError, match="reading sample .* damaged"):
        take(training(dataset, indices=np.array([2, 3]), batch_size=2, config=config))


def test_a_batch_moves_every_tensor_but_its_indices(dataset: Dataset) -> None:
    (batch,) = take(training(dataset, steps=(0, 1), masks={"fc": 5}))
    moved = batch.to(torch.device("meta"))
    assert len(moved.tensors()) == 3 + 1 + 3 + 1  # pictures, targets, draws, a mask
    for there, here in zip(moved.tensors(), batch.tensors(), strict=True):
        assert (there.device.type, here.device.type) == ("meta", "cpu")
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
    assert moved.indices is batch.indices
    assert (moved.samples, moved.step, moved.pictures.side) == (batch.samples, batch.step, batch.pictures.side)
