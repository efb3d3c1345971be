"""Named links between devices, and clusters that are made of them.

A message of m bytes takes latency + m / bandwidth, the latency-bandwidth model (Hockney 1994). The bandwidth is the
published rate of the line, in one direction, times the share of it that programs get.

Sources. Rates: NVIDIA's data sheets (NVLink 1 to 4: 80, 150, 300 and 450 GB/s a GPU and direction, half of the "total"
that they print), PCI-SIG (PCIe 3 to 5 with 16 lanes), InfiniBand Trade Association (EDR 100, HDR 200, NDR 400 Gbit/s),
IEEE 802.3 (10, 25 and 100 Gbit/s). Latencies: what NCCL itself plans with (`hwLat` in `src/graph/tuning.cc` of
NVIDIA/nccl, version 2.17.1). In its protocol Simple: for rings NVLink 3.4, PCI 5.7, network 9.6 µs, and 8.4 µs a call;
for trees 28 µs, whatever the line. In its protocol LL128, which it uses by itself between V100s, A100s or H100s that
talk over NVLink: for rings NVLink 1.9, network 4.0 µs, for trees 1.25 and 8.5 µs. Its protocol LL, for the smallest
messages, is left out. Those of TCP (20 µs more), and all of `shm` and `loopback`, are assumptions, never measured.
Shares: an assumption, the same 0.8 for everything but TCP, whose 0.54 follows from a published table: see
`published.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from hvd_r2n2.common.names import known_hint

_SHARE = 0.8
_TCP_SHARE = 0.54
_GIGABIT = 1e9 / 8
_NCCL_CALL_S = 8.4e-6


@dataclass(frozen=True)
class Latencies:
    """Of a message in one of NCCL's protocols."""

    ring_s: float
    tree_s: float


_NVLINK_LL128 = Latencies(1.9e-6, 1.25e-6)
_RDMA_LL128 = Latencies(4.0e-6, 8.5e-6)
_TCP_LL128 = Latencies(24e-6, 28.5e-6)


@dataclass(frozen=True)
class Link:
    """What a message from one device to the next takes."""

    name: str
    latency_s: float
    line_bytes_per_s: float
    """Of the line, in one direction."""
    share: float = 1.0
    """Of the line's rate that programs get."""
    call_s: float = 0.0
    """Once an allreduce, whatever its size."""
    lanes: float | None = None
    """Processors that all messages of a moment share; with more messages than that they take turns. None: no limit."""
    processor_share: float = 0.0
    """Share of a transfer's time for which a processor works at it that also computes: 0 for GPUs with a network card,
    1 where the cores that compute also copy."""
    hop_s: float | None = None
    """Of a message by which ranks agree on what is ready everywhere; None: the latency."""
    tree_latency_s: float | None = None
    """Of a message in NCCL's trees, its first chunk included; None: NCCL does not average over this link."""
    ll128: Latencies | None = None
    """In NCCL's protocol LL128; None: NCCL does not use it over this link. `latency_s` and `tree_latency_s` are those
    of the protocol Simple."""
    ring_plateau: float = 1.9
    """Between nodes of devices that talk over this link: how many times its latencies a ring of the protocol Simple
    takes for all but small sizes. NCCL's factor for GPUs before Hopper; 1.5 for those."""

    @property
    def bytes_per_s(self) -> float:
        """Give what programs get."""
        return self.line_bytes_per_s * self.share

    def message_s(self, size: float, at_once: float = 1, cards: int = 1) -> float:
        """Give the time of a message over so many cards while so many are on their way.

        What processors do takes turns, what the line does not.
        """
        turns = self.turns(at_once)
        slower = self.processor_share * turns + 1 - self.processor_share
        return self.latency_s * turns + size / (self.bytes_per_s * cards) * slower

    def turns(self, at_once: float) -> float:
        """Give how many messages a processor has to see to while so many are on their way."""
        return 1.0 if self.lanes is None else max(1.0, at_once / self.lanes)

    def agreement_s(self, at_once: float) -> float:
        """Give the time of a message by which ranks agree."""
        return (self.latency_s if self.hop_s is None else self.hop_s) * self.turns(at_once)


def _nvlink(name: str, bytes_per_s: float, ll128: Latencies | None = _NVLINK_LL128, ring_plateau: float = 1.9) -> Link:
    link = _nccl(name, 3.4e-6, bytes_per_s)
    return replace(link, ll128=ll128, ring_plateau=ring_plateau)


def _nccl(name: str, latency_s: float, line_bytes_per_s: float) -> Link:
    return Link(name, latency_s, line_bytes_per_s, _SHARE, _NCCL_CALL_S, tree_latency_s=28e-6)


def _rdma(name: str, gigabits: float) -> Link:
    return replace(_nccl(name, 9.6e-6, gigabits * _GIGABIT), ll128=_RDMA_LL128)


def _tcp(name: str, gigabits: float) -> Link:
    link = _nccl(name, 30e-6, gigabits * _GIGABIT)
    return replace(link, share=_TCP_SHARE, tree_latency_s=48e-6, ll128=_TCP_LL128)


LINKS = {
    link.name: link
    for link in (
        _nvlink("nvlink1", 80e9, ll128=None),
        _nvlink("nvlink2", 150e9),
        _nvlink("nvlink3", 300e9),
        _nvlink("nvlink4", 450e9, ring_plateau=1.5),
        _nccl("pcie3", 5.7e-6, 15.75e9),
        _nccl("pcie4", 5.7e-6, 31.5e9),
        _nccl("pcie5", 5.7e-6, 63e9),
        Link("shm", 10e-6, 5e9, processor_share=1.0),
        Link("loopback", 30e-6, 2e9, processor_share=1.0),
        _rdma("edr", 100),
        _rdma("hdr", 200),
        _rdma("ndr", 400),
        _rdma("roce-25g", 25),
        _rdma("roce-100g", 100),
        _tcp("eth-1g", 1),
        _tcp("eth-10g", 10),
        _tcp("eth-25g", 25),
        _tcp("eth-100g", 100),
    )
}


@dataclass(frozen=True)
class Cluster:
    """Nodes that are alike, with the same number of devices each."""

    name: str
    inside: Link
    """Between the devices of a node."""
    between: Link
    """Between nodes, for each network card."""
    devices_per_node: int = 8
    cards_per_node: int = 1
    """Network cards that the devices of a node share."""

    def __post_init__(self) -> None:
        for name, value in (("devices per node", self.devices_per_node), ("network cards", self.cards_per_node)):
            if value < 1:
                raise ValueError(f"{self.name}: {value} {name} (1 or more)")

    @property
    def has_trees(self) -> bool:
        """Say whether NCCL averages here, which has trees beside rings."""
        return None not in (self.inside.tree_latency_s, self.between.tree_latency_s)

    @property
    def has_ll128(self) -> bool:
        """Say whether NCCL uses its protocol LL128 here."""
        return None not in (self.inside.ll128, self.between.ll128)

    def num_nodes(self, num_devices: int) -> int:
        """Return how many nodes so many devices are on."""
        return ceil(num_devices / self.devices_per_node)

    @property
    def assumptions(self) -> str:
        """Say in words what is taken for granted."""
        inside, between = self.inside, self.between
        return (
            f"{self.name}: {self.devices_per_node} device(s) a node over {_text(inside)}; {self.cards_per_node} "
            f"card(s) a node of {_text(between)}"
        )


def find_cluster(name: str, devices_per_node: int = 8, measured: Mapping[str, Link] | None = None) -> Cluster:
    """Return the cluster that a name says: INSIDE+BETWEEN, or INSIDE+CARDS*BETWEEN, such as ``nvlink4+8*ndr``.

    Links that were measured stand before those of the same name that are known here.

    Raises:
        ValueError: a link is not known, or the name is not of this form.
    """
    match = re.fullmatch(r"([\w-]+)\+(?:(\d{1,3})\*)?([\w-]+)", name)
    if match is None:
        raise ValueError(f"network {name!r}: write INSIDE+BETWEEN, such as nvlink4+ndr, or nvlink4+8*ndr for 8 cards")
    inside, cards, between = match.groups()
    known = LINKS | dict(measured or {})
    found = [_find_link(one, known) for one in (inside, between)]
    return Cluster(name, found[0], found[1], devices_per_node, int(cards or 1))


def _find_link(name: str, known: Mapping[str, Link]) -> Link:
    if name not in known:
        raise ValueError(f"network {name!r} is not known{known_hint(name, known)}")
    return known[name]


def _text(link: Link) -> str:
    share = f" of which {link.share:.0%} is reached" if link.share < 1 else ""
    return f"{link.name} ({link.line_bytes_per_s / 1e9:g} GB/s{share}, {link.latency_s * 1e6:.3g} µs)"
