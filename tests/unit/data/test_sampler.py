import numpy as np
import pytest

from hvd_r2n2.data.random_numbers import Purpose, raw_numbers, uniform_numbers, uniform_rows
from hvd_r2n2.data.sampler import (
    EpochOrders,
    epoch_order,
    evaluation_chunks,
    global_batch,
    num_views_of_step,
    rank_slice,
)

MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10 written down from the paper (Salmon et al., SC 2011, section 4.3)."""
    x, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [second >> 64 ^ x[1] ^ k0, second & MASK, first >> 64 ^ x[3] ^ k1, first & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return x


def test_the_random_numbers_are_philox_of_seed_purpose_and_counters() -> None:
    # Known answer of the Random123 library, for all zeros.
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox([0] * 4, [0] * 2) == known
    numbers = raw_numbers(Purpose.SAMPLE, 7, 5, 11, 8).tolist()
    assert numbers == philox([1, 11, 5, 0], [7, 3]) + philox([2, 11, 5, 0], [7, 3])


def test_a_longer_request_begins_with_the_shorter_one_and_streams_differ() -> None:
    long = uniform_numbers(Purpose.SAMPLE, 1, 2, 3, 21)
    np.testing.assert_array_equal(uniform_numbers(Purpose.SAMPLE, 1, 2, 3, 7), long[:7])
    assert ((long >= 0) & (long < 1)).all()
    keys = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2**63, 1, 1)]
    streams = {tuple(raw_numbers(purpose, *key, 3)) for key in keys for purpose in Purpose}
    assert len(streams) == len(keys) * len(Purpose)


def test_rows_are_the_streams_one_by_one() -> None:
    counters = [(0, 0), (5, 11), (11, 5), (2**40, 3), (0, 0)]
    rows = uniform_rows(Purpose.SAMPLE, 7, counters, 9)
    for row, (major, minor) in zip(rows, counters, strict=True):
        np.testing.assert_array_equal(row, uniform_numbers(Purpose.SAMPLE, 7, major, minor, 9))


def test_steps_in_any_order_have_the_samples_of_their_own_epoch() -> None:
    """Threads make batches ahead, and an order that is remembered must not be taken for another epoch's."""
    orders = EpochOrders(5, 4)
    for step in (9, 0, 4, 0, 9, 2):
        for number, place in enumerate(global_batch(orders, 3, step), start=3 * step):
            assert (place.epoch, place.position) == (number // 5, epoch_order(5, 4, number // 5)[number % 5])


def test_an_epoch_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders}) == 4


def test_first_places_are_uniform_over_the_epochs() -> None:
    counts = np.bincount([epoch_order(5, 3, epoch)[0] for epoch in range(2000)], minlength=5)
    # Binomial(2000, 1/5): mean 400, standard deviation 18.
    assert (abs(counts - 400) < 90).all()


@pytest.mark.parametrize(("num_samples", "batch_size"), [(8, 6), (10, 5), (3, 7), (1, 2)])
def test_the_steps_follow_the_epochs_without_a_gap(num_samples: int, batch_size: int) -> None:
    orders = EpochOrders(num_samples, 4)
    places = [place for step in range(10) for place in global_batch(orders, batch_size, step)]
    assert len(places) == 10 * batch_size
    for number, place in enumerate(places):
        epoch, position = divmod(number, num_samples)
        assert (place.epoch, place.position) == (epoch, epoch_order(num_samples, 4, epoch)[position])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_the_ranks_parts_join_to_the_global_batch(size: int) -> None:
    batch = list(range(12))
    parts = [batch[rank_slice(12, rank, size)] for rank in range(size)]
    assert [sample for part in parts for sample in part] == batch
    assert {len(part) for part in parts} == {12 // size}


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(ValueError, match=r"batch of 36 does not divide among 5 ranks \(use 35 or 40\)"):
        rank_slice(36, 0, 5)
    with pytest.raises(ValueError, match=r"batch of 2 does not divide among 5 ranks \(use 5\)"):
        rank_slice(2, 0, 5)


def test_the_number_of_views_of_a_step_is_uniform_with_both_ends() -> None:
    counts = np.bincount([num_views_of_step(9, step, 1, 5) for step in range(5000)], minlength=6)
    assert counts[0] == 0
    # Binomial(5000, 1/5): mean 1000, standard deviation 28.
    assert (abs(counts[1:] - 1000) < 140).all()
    assert num_views_of_step(9, 3, 4, 4) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_samples", [0, 1, 10, 13, 24])
def test_evaluation_chunks_cover_each_sample_once(num_samples: int, size: int) -> None:
    chunks = [chunk for rank in range(size) for chunk in evaluation_chunks(num_samples, 4, rank, size)]
    assert sorted(sample for chunk in chunks for sample in chunk) == list(range(num_samples))
    assert all(len(chunk) == 4 for chunk in sorted(chunks, key=lambda chunk: chunk.start)[:-1])


def test_chunk_c_goes_to_rank_c_mod_size() -> None:
    assert evaluation_chunks(10, 2, 0, 2) == (range(0, 2), range(4, 6), range(8, 10))
    assert evaluation_chunks(10, 2, 1, 2) == (range(2, 4), range(6, 8))
    assert evaluation_chunks(3, 2, 2, 3) == ()
