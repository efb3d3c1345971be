"""What an allreduce takes over a cluster: one flat ring, NCCL's trees, or rings inside nodes and between them.

Legend: n ranks, S bytes, N nodes, k = n / N ranks a node, a latency, B bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Literal

from hvd_r2n2.common.names import known_hint
from hvd_r2n2.scaling.links import Cluster, Link

Algorithm = Literal["best", "ring", "tree", "hierarchical"]
ALGORITHMS: tuple[Algorithm, ...] = ("best", "ring", "tree", "hierarchical")

_LL128_CALL_S = 10e-6
_LL128_RING_SHARE, _LL128_RING_SHARE_ALONE = 0.92, 0.7
"""Of the bandwidth that rings have in the protocol LL128; the second where a node has fewer than two ranks."""
_PLATEAU_BYTES = 4096
"""For each rank: where there are so many, a ring of the protocol Simple has longer latencies."""


@dataclass(frozen=True)
class Trees:
    """What NCCL expects of trees in one of its protocols."""

    call_s: float
    share_inside: float
    """Of the slowest link's bandwidth, on one node, at most."""
    share_between: float
    """On several."""
    shares: tuple[float, ...]
    """Of that, by size: for 64 bytes and more, 128 and more, and so on to 256 MiB (`treeCorrectionFactor`); 1 from 512
    MiB."""


SIMPLE_TREES = Trees(
    0.0, 0.92, 0.92, (*[0.9] * 7, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9)
)
LL128_TREES = Trees(
    4.4e-6,
    0.92 * 7 / 9,
    0.92 * 120 / 128,
    (*[1.0] * 5, 0.9, 0.8, 0.8, 0.8, 0.7, *[0.6] * 6, 0.8, *[0.9] * 4, 1.0, 1.0),
)


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


def tree_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float, trees: Trees = SIMPLE_TREES) -> float:
    """Return the time of NCCL's double binary tree: a chain inside each node, the nodes in two trees.

    As NCCL 2.17.1 plans with it (`ncclTopoTuneModel` and `ncclTopoGetAlgoTime` in `src/graph/tuning.cc` of
    NVIDIA/nccl): 2 (k - 1) latencies inside and 2 log2 N between nodes, and 2 S bytes at a share of the slowest link's
    bandwidth that depends on S. NCCL's limits by generation of GPU are left out.
    """
    inside, between = cluster.inside, cluster.between
    assert inside.tree_latency_s is not None
    assert between.tree_latency_s is not None
    hops_inside, hops_between = num_ranks / num_nodes - 1, num_nodes.bit_length() - 1  # log2 is rounded down, as there
    latency_s = hops_inside * inside.tree_latency_s + hops_between * between.tree_latency_s
    bytes_per_s, share = inside.bytes_per_s, trees.share_inside
    if num_nodes > 1:
        bytes_per_s = min(bytes_per_s, between.bytes_per_s * cluster.cards_per_node)
        share = trees.share_between
    power = max(0, (int(size) // 64).bit_length() - 1)
    share *= trees.shares[power] if power < len(trees.shares) else 1.0
    return trees.call_s + 2 * (latency_s + size / (bytes_per_s * share))


def nccl_s(cluster: Cluster, num_ranks: int, num_nodes: int, size: float) -> float:
    """Return the time of what NCCL takes for this size: the fastest of ring and tree in its protocols Simple and LL128.

    As NCCL 2.17.1 expects them (`ncclTopoTuneModel` and `ncclTopoGetAlgoTime` in `src/graph/tuning.cc` of NVIDIA/nccl).
    Between nodes a ring in the protocol Simple has longer latencies from 4 KiB a rank on ("plateau effect"). LL128 has
    short latencies and less bandwidth; that each network card is near a GPU, which NCCL demands of it, is assumed.
    Left out are the protocol LL, NVLink SHARP, networks that sum themselves, and limits by generation of GPU.
    """
    ring_s = allreduce_s(cluster, num_ranks, num_nodes, size, "ring")
    if num_nodes > 1 and size >= _PLATEAU_BYTES * num_ranks:
        ring_s += (cluster.inside.ring_plateau - 1) * allreduce_s(cluster, num_ranks, num_nodes, 0, "ring")
    times = [ring_s, tree_s(cluster, num_ranks, num_nodes, size)]
    if cluster.has_ll128:
        fast = _in_ll128(cluster, _LL128_RING_SHARE if num_ranks >= 2 * num_nodes else _LL128_RING_SHARE_ALONE)
        times.append(allreduce_s(fast, num_ranks, num_nodes, size, "ring"))
        times.append(tree_s(_in_ll128(cluster), num_ranks, num_nodes, size, LL128_TREES))
    return min(times)


def _in_ll128(cluster: Cluster, share: float = 1.0) -> Cluster:
    """Give the cluster with the latencies of LL128, and so much of the bandwidth."""
    return replace(
        cluster, inside=_link_in_ll128(cluster.inside, share), between=_link_in_ll128(cluster.between, share)
    )


def _link_in_ll128(link: Link, share: float) -> Link:
    assert link.ll128 is not None
    return replace(
        link,
        latency_s=link.ll128.ring_s,
        tree_latency_s=link.ll128.tree_s,
        share=link.share * share,
        call_s=_LL128_CALL_S,
    )


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

    `best` is what happens where nothing is set: over NCCL's links what NCCL takes for this size (see `nccl_s`), over
    others, where Open MPI averages, the ring. `ring` is a plain one, without what NCCL expects besides.
    """
    if num_ranks == 1:
        return 0.0
    if algorithm == "best" and cluster.has_trees:
        return nccl_s(cluster, num_ranks, num_nodes, size)
    if algorithm == "tree":  # whose latencies hold the call
        return tree_s(cluster, num_ranks, num_nodes, size)
    call_s = (cluster.inside if num_nodes == 1 else cluster.between).call_s
    times = hierarchical_s if algorithm == "hierarchical" else flat_ring_s
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
