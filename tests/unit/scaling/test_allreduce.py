"""Allreduce times against hand-computed ones."""

import pytest

from hvd_r2n2.scaling.allreduce import allreduce_s, flat_ring_s, hierarchical_s, negotiation_s, ring_s
from hvd_r2n2.scaling.links import Cluster, Link, find_cluster

FAST, SLOW = Link("fast", 0.0, 100.0), Link("slow", 0.0, 10.0)


@pytest.mark.parametrize("num_ranks", [2, 3, 8, 4096])
def test_ring_without_latency_moves_each_byte_nearly_twice(num_ranks: int) -> None:
    assert ring_s(FAST, num_ranks, 600.0) == pytest.approx(2 * (num_ranks - 1) / num_ranks * 600 / 100)


def test_ring_pays_the_latency_of_every_message() -> None:
    assert ring_s(Link("late", 0.5, 100.0), 4, 800.0) == pytest.approx(2 * 3 * (0.5 + 200 / 100))


def test_one_rank_sends_nothing() -> None:
    cluster = Cluster("one", FAST, SLOW)
    assert allreduce_s(cluster, 1, 8, 1e9) == 0
    assert negotiation_s(cluster, 1, 8) == 0


def test_hierarchical_is_the_sum_of_its_three_parts() -> None:
    # 4 ranks a node, 3 nodes, 1,200 bytes: 3 messages of 300 in and out at 100; a ring of 1,200 bytes at 10.
    cluster = Cluster("hand", FAST, SLOW, devices_per_node=4)
    assert hierarchical_s(cluster, 12, 3, 1200.0) == pytest.approx(2 * 3 * 300 / 100 + 2 * 2 / 3 * 1200 / 10)


def test_flat_ring_goes_at_the_pace_of_the_slowest_link() -> None:
    cluster = Cluster("hand", FAST, SLOW, devices_per_node=4)
    assert flat_ring_s(cluster, 12, 3, 1200.0) == pytest.approx(2 * 11 / 12 * 1200 / 10)


def test_more_bandwidth_never_takes_longer() -> None:
    times = [
        allreduce_s(find_cluster(f"nvlink4+{between}"), 64, 8, 1e8) for between in ("eth-10g", "eth-25g", "hdr", "ndr")
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > 10 * times[-1]


def test_best_is_the_faster_for_each_size() -> None:
    cluster = find_cluster("nvlink4+hdr")
    for size in (1e3, 1e9):
        ring, hierarchical, best = (allreduce_s(cluster, 512, 64, size, a) for a in ("ring", "hierarchical", "best"))
        assert best == min(ring, hierarchical)


def test_unknown_networks_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"network 'nvlink5' is not known, did you mean nvlink"):
        find_cluster("nvlink5+ndr")
    with pytest.raises(ValueError, match=r"write INSIDE\+BETWEEN"):
        find_cluster("ndr")
