"""The model against figures that others published, with one set of constants for all of them.

Published, with 4 Pascal GPUs a server, 25 Gbit/s RoCE, NCCL, batch 64 a GPU and random pictures (tf_cnn_benchmarks):
* images/s of one GPU and of 16, over RDMA and over TCP: the README of Horovod in autumn 2017 (the table that
  github.com/horovod/horovod/pull/44 took out; issue 20 there says that it was 25 Gbit/s RoCE).
* 128 GPUs (32 servers): 90, 90 and 79 %, the README after that change.
* 512 GPUs (128 servers): 90, 90 and 68 %, `docs/benchmarks.rst` of Horovod, which goes with arXiv:1802.05799.
* 64 MiB of fusion (arXiv:1802.05799, section 7) every 5 ms (Horovod's defaults of that time).
* NCCL had rings only then, so the model has no trees here.

Constants that are not published, the same for all: the share of the line's rate that is reached, 0.8 (an assumption of
`links.py`); the spread of ranks, 2.5 %, chosen so that Inception V3 comes near to its 90 % at 512 GPUs, for it sends so
little that nothing else can cost as much. All other figures over RDMA are predictions then. TCP's share of 0.54
follows from VGG-16 over TCP alone: 64 / 130.9 s of arithmetic, a third of it before the first gradient; 16 / 10.0 times
that for a step, and 2 · 15/16 · 553 MB in the time left. That the GPUs of a server talk over PCIe 3 is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hvd_r2n2.scaling.links import Cluster, find_cluster
from hvd_r2n2.scaling.overlap import Fusion, Layer
from hvd_r2n2.scaling.published_networks import Piece, inception_v3, layers_of, resnet_101, vgg_16
from hvd_r2n2.scaling.step import Step, predict_step

BATCH = 64
GPUS_A_SERVER = 4
FUSION = Fusion(threshold_bytes=64 * 2**20, cycle_s=5e-3)
SPREAD = 0.025
TOLERANCE = 0.06
"""Most by which an efficiency of the model may differ from a published one over RDMA, in parts of 1."""


@dataclass(frozen=True)
class PublishedNetwork:
    """A network with what was published of it."""

    name: str
    pieces: Callable[[], tuple[Piece, ...]]
    images_per_s: float
    """Of one GPU."""
    efficiency: Mapping[int, float]
    """By number of GPUs, over RDMA."""
    tcp_efficiency: float
    """Of 16 GPUs over TCP."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Give its layers, which take the published time together."""
        return layers_of(self.pieces(), BATCH / self.images_per_s)


NETWORKS = (
    PublishedNetwork(
        "Inception V3",
        inception_v3,
        134.4,
        {16: 2022.6 / 16 / 134.4, 128: 0.90, 512: 0.90},
        1990.7 / 16 / 134.4,
    ),
    PublishedNetwork(
        "ResNet-101",
        resnet_101,
        119.4,
        {16: 1746.2 / 16 / 119.4, 128: 0.90, 512: 0.90},
        1685.1 / 16 / 119.4,
    ),
    PublishedNetwork(
        "VGG-16",
        vgg_16,
        130.9,
        {16: 1787.4 / 16 / 130.9, 128: 0.79, 512: 0.68},
        1308.7 / 16 / 130.9,
    ),
)


@dataclass(frozen=True)
class Check:
    """A published efficiency beside the model's."""

    network: str
    between: str
    gpus: int
    published: float
    predicted: float
    lowest: float
    """The model's with every constant that is assumed at its worse end: see `check`."""
    highest: float
    """With every one at its better end."""
    step: Step

    @property
    def error(self) -> float:
        """Give the difference, in parts of 1."""
        return self.predicted - self.published


def check() -> tuple[Check, ...]:
    """Hold the model against every published figure.

    The range that stands beside each is that of the assumed constants: share of the line 0.7 to 0.9, spread 1.5 to
    3.5 %, latencies half and twice.
    """
    return tuple(
        _check(network, between, gpus, published)
        for between in ("roce-25g", "eth-25g")
        for network in NETWORKS
        for gpus, published in (network.efficiency.items() if between != "eth-25g" else ((16, network.tcp_efficiency),))
    )


def _check(network: PublishedNetwork, between: str, gpus: int, published: float) -> Check:
    cluster = find_cluster(f"pcie3+{between}", GPUS_A_SERVER)
    step = _step(network, cluster, gpus, SPREAD)
    worse = _step(network, _varied(cluster, 7 / 8, 2.0), gpus, SPREAD + 0.01)
    better = _step(network, _varied(cluster, 9 / 8, 0.5), gpus, SPREAD - 0.01)
    compute_s = step.compute_s
    return Check(
        network.name,
        between,
        gpus,
        published,
        compute_s / step.step_s,
        compute_s / worse.step_s,
        compute_s / better.step_s,
        step,
    )


def _step(network: PublishedNetwork, cluster: Cluster, gpus: int, spread: float) -> Step:
    return predict_step(
        network.layers, cluster, gpus, cluster.num_nodes(gpus), fusion=FUSION, spread=spread, algorithm="ring"
    )


def _varied(cluster: Cluster, share: float, latency: float) -> Cluster:
    inside, between = (
        replace(link, share=link.share * share, latency_s=link.latency_s * latency)
        for link in (cluster.inside, cluster.between)
    )
    return replace(cluster, inside=inside, between=between)
