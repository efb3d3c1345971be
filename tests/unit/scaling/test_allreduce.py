"""Allreduce times against hand-computed ones."""

from dataclasses import replace

import pytest

from hvd_r2n2.scaling.allreduce import allreduce_s, flat_ring_s, hierarchical_s, negotiation_s, ring_s, tree_s
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


def test_tree_is_a_chain_inside_and_two_trees_between() -> None:
    # 4 ranks a node, 3 nodes, up and down: 3 latencies inside, 1 between, all bytes at 0.92 · 0.9 of the slowest link.
    inside, between = replace(FAST, tree_latency_s=0.5), replace(SLOW, tree_latency_s=2.0)
    cluster = Cluster("hand", inside, between, devices_per_node=4)
    assert tree_s(cluster, 12, 3, 1200.0) == pytest.approx(2 * (3 * 0.5 + 2.0 + 1200 / (10 * 0.92 * 0.9)))
    assert tree_s(cluster, 4, 1, 1200.0) == pytest.approx(2 * (3 * 0.5 + 1200 / (100 * 0.92 * 0.9)))


def test_tree_has_the_bandwidth_that_nccl_expects_for_the_size() -> None:
    # NCCL's `treeCorrectionFactor` for protocol Simple: 0.5 at 1 MiB, 0.9 at 128 MiB, none from 512 MiB.
    link = Link("no latency", 0.0, 1e9, tree_latency_s=0.0)
    cluster = Cluster("hand", link, link)
    for size, share in ((1, 0.9), (2**20, 0.5), (2**27, 0.9), (2**28, 0.9), (2**29, 1.0), (2**32, 1.0)):
        assert tree_s(cluster, 16, 2, size) == pytest.approx(2 * size / (1e9 * 0.92 * share))


def test_twice_the_nodes_take_a_tree_one_latency_up_and_one_down() -> None:
    cluster = find_cluster("nvlink4+8*ndr")
    half, whole = (tree_s(cluster, 8 * num_nodes, num_nodes, 2**27) for num_nodes in (256, 512))
    assert whole - half == pytest.approx(2 * 28e-6)


@pytest.mark.parametrize(
    ("network", "num_ranks", "num_nodes", "size", "expected_us"),
    [
        # Protocol LL128, trees: 4.4 µs, hops of 1.25 inside and 8.5 between nodes, up and down; 60 % of 7/9 or 120/128.
        ("nvlink4+8*ndr", 8, 1, 2**20, 4.4 + 2 * 7 * 1.25 + 2 * 2**20 / (360e3 * 0.92 * 7 / 9 * 0.6)),
        ("nvlink4+8*ndr", 64, 8, 2**20, 4.4 + 2 * (7 * 1.25 + 3 * 8.5) + 2 * 2**20 / (320e3 * 0.92 * 120 / 128 * 0.6)),
        # Its rings: 10 µs, hops of 1.9 and 4; 92 % of the bandwidth, 70 % with one rank a node.
        ("nvlink4+8*ndr", 8, 1, 2**23, 10 + 14 * 1.9 + 14 / 8 * 2**23 / (360e3 * 0.92)),
        ("nvlink4+hdr", 2, 2, 2**16, 10 + 2 * 4.0 + 2**16 / (20e3 * 0.7)),
        # Protocol Simple, rings: 8.4 µs and 9.6 a hop, from 4 KiB a rank on 1.5 times that with H100s, else 1.9 times.
        ("nvlink4+hdr", 2, 2, 2**22, 1.5 * (8.4 + 2 * 9.6) + 2**22 / 20e3),
        ("nvlink3+hdr", 2, 2, 2**22, 1.9 * (8.4 + 2 * 9.6) + 2**22 / 20e3),
        ("pcie4+hdr", 2, 2, 2**13, 1.9 * (8.4 + 2 * 9.6) + 2**13 / 20e3),
        ("pcie4+hdr", 2, 2, 2**13 - 4, 8.4 + 2 * 9.6 + (2**13 - 4) / 20e3),
        # Its trees: hops of 28 µs. GPUs before Volta, and those without NVLink, do without LL128.
        ("nvlink1+hdr", 64, 8, 2**20, 2 * (7 + 3) * 28 + 2 * 2**20 / (20e3 * 0.92 * 0.5)),
        ("pcie4+hdr", 64, 8, 2**20, 2 * (7 + 3) * 28 + 2 * 2**20 / (20e3 * 0.92 * 0.5)),
    ],
)
def test_best_of_nccl_is_its_fastest_algorithm_and_protocol(
    network: str, num_ranks: int, num_nodes: int, size: int, expected_us: float
) -> None:
    found_s = allreduce_s(find_cluster(network), num_ranks, num_nodes, size, "best")
    assert found_s == pytest.approx(expected_us * 1e-6)


def test_best_of_other_networks_is_the_ring_for_nothing_sets_hierarchical() -> None:
    cluster = find_cluster("shm+loopback")
    ring, hierarchical, best = (allreduce_s(cluster, 512, 64, 1e3, a) for a in ("ring", "hierarchical", "best"))
    assert hierarchical < ring
    assert best == ring


def test_unknown_networks_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"network 'nvlink5' is not known, did you mean nvlink"):
        find_cluster("nvlink5+ndr")
    with pytest.raises(ValueError, match=r"write INSIDE\+BETWEEN"):
        find_cluster("ndr")
