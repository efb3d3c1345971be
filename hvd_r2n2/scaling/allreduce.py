"""What an allreduce takes over a cluster: one flat ring, NCCL's trees, or rings inside nodes and between them.

Legend: n ranks, S bytes, N nodes, k = n / N ranks a node, a latency, B bandwidth.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Literal

from hvd_r2n2.common.names import known_hint
from hvd_r2n2.scaling.links import Cluster, Link

Algorithm = Literal["best", "ring", "tree", "hierarchical"]
ALGORITHMS: tuple[Algorithm, ...] = ("best", "ring", "tree", "hierarchical")

_TREE_SHARE = 0.92
"""Of the bandwidth that NCCL expects of trees, at most."""
_TREE_SHARES = (*[0.9] * 7, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9)
"""By size: for 64 bytes and more, 128 and more, and so on to 256 MiB (`treeCorrectionFactor`); 1 from 512 MiB."""


def ring_s(link: Link, num_ranks: int, size: float) -> float:
    """Return the time of a ring over one link: 2 (n - 1) messages of S / n bytes after one another, all ranks at once.

    With no latency that is 2 (n - 1) / n · S / B (Patarasuk and Yuan 2009). One rank has nothing to do.
    """
    return 2 * (num_ranks - 1) * link.message_s(size / num_ranks, num_ranks)


def flat_ring_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float) -> float:
    """Return the time of one ring through all ranks of all nodes, neighbours on a node one after another.

    A chunk goes 2 (n - 1) hops, one in k of them between nodes: latencies add up as in NCCL's own model
    (`ncclTopoTuneModel` in `src/graph/tuning.cc`). Bytes go at the pace of the slowest link; a node's cards each have a
    ring of their own.
    """
    inside, between = cluster.inside, cluster.between
    if num_nodes == 1:
        return ring_s(inside, num_ranks, size)
    chunk = size / num_ranks
    between_s = between.message_s(chunk, num_ranks, cluster.cards_per_node)
    if num_nodes == num_ranks:
        return 2 * (num_ranks - 1) * between_s
    share = num_nodes / num_ranks
    latency_s = (1 - share) * inside.message_s(0, num_ranks) + share * between.message_s(0, num_ranks)
    bytes_s = max(
        inside.message_s(chunk, num_ranks) - inside.message_s(0, num_ranks),
        between_s - between.message_s(0, num_ranks),
    )
    return 2 * (num_ranks - 1) * (latency_s + bytes_s)


def tree_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float) -> float:
    """Return the time of NCCL's double binary tree: a chain inside each node, the nodes in two trees.

    As NCCL 2.17 plans with it (`ncclTopoTuneModel` and `ncclTopoGetAlgoTime` in `src/graph/tuning.cc` of NVIDIA/nccl,
    protocol Simple): 2 (k - 1) latencies inside and 2 log2 N between nodes, and 2 S bytes at a share of the slowest
    link's bandwidth that depends on S. NCCL's limits by generation of GPU are left out.
    """
    inside, between = cluster.inside, cluster.between
    assert inside.tree_latency_s is not None
    assert between.tree_latency_s is not None
    hops_inside, hops_between = num_ranks / num_nodes - 1, num_nodes.bit_length() - 1  # log2 is rounded down, as there
    latency_s = hops_inside * inside.tree_latency_s + hops_between * between.tree_latency_s
    bytes_per_s = inside.bytes_per_s
    if num_nodes > 1:
        bytes_per_s = min(bytes_per_s, between.bytes_per_s * cluster.cards_per_node)
    power = max(0, (int(size) // 64).bit_length() - 1)
    share = _TREE_SHARE * (_TREE_SHARES[power] if power < len(_TREE_SHARES) else 1.0)
    return 2 * (latency_s + size / (bytes_per_s * share))


def hierarchical_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float) -> float:
    """Return the time of Horovod's hierarchical allreduce: sum inside each node, ring between nodes, hand out inside.

    Horovod does so with HOROVOD_HIERARCHICAL_ALLREDUCE=1 alone. Inside: a reduce-scatter and an allgather, (k - 1)
    messages of S / k each. Between: the k ranks of a node have a ring each for their part of S / k bytes, all at once
    over its cards: 2 (N - 1) messages of S / N bytes a node.
    """
    if num_nodes == 1:
        return ring_s(cluster.inside, num_ranks, size)
    of_a_node = num_ranks / num_nodes
    inside_s = 2 * (of_a_node - 1) * cluster.inside.message_s(size / of_a_node, of_a_node)
    between_s = cluster.between.message_s(size / num_nodes, num_nodes, cluster.cards_per_node)
    return inside_s + 2 * (num_nodes - 1) * between_s


def allreduce_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float, algorithm: Algorithm = "best") -> float:
    """Return the time of an allreduce of so many bytes.

    `best` is what happens where nothing is set: over NCCL's links the faster of ring and tree for this size, over
    others, where Open MPI averages, the ring.
    """
    if num_ranks == 1:
        return 0.0
    if algorithm == "best":
        choices: tuple[Algorithm, ...] = ("ring", "tree") if cluster.has_trees else ("ring",)
        return min(allreduce_s(cluster, num_ranks, num_nodes, size, one) for one in choices)
    if algorithm == "tree":  # whose latencies hold the call
        return tree_s(cluster, num_ranks, num_nodes, size)
    call_s = (cluster.inside if num_nodes == 1 else cluster.between).call_s
    times = flat_ring_s if algorithm == "ring" else hierarchical_s
    return call_s + times(cluster, num_ranks, num_nodes, size)


def negotiation_s(cluster: Cluster, num_ranks: int, num_nodes: int) -> float:
    """Return how long ranks need to agree on what is ready everywhere: up a binary tree and down again."""
    if num_ranks == 1:
        return 0.0
    link = cluster.inside if num_nodes == 1 else cluster.between
    return 2 * ceil(log2(num_ranks)) * link.agreement_s(num_ranks / num_nodes)


def find_algorithm(name: str) -> Algorithm:
    """Return an algorithm by its name.

    Raises:
        ValueError: it is not known; names the nearest.
    """
    for algorithm in ALGORITHMS:
        if name == algorithm:
            return algorithm
    raise ValueError(f"algorithm {name!r} is not known{known_hint(name, ALGORITHMS)}")
