"""One training step of ranks that have the same to do: arithmetic, averaging, stragglers, input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_r2n2.scaling.allreduce import Algorithm, allreduce_s, negotiation_s
from hvd_r2n2.scaling.links import Cluster
from hvd_r2n2.scaling.overlap import Fusion, Layer, exchange
from hvd_r2n2.scaling.stragglers import straggler_s


@dataclass(frozen=True)
class Step:
    """What a step comes to, in seconds."""

    compute_s: float
    """A rank's arithmetic, forward, backward and optimizer."""
    communication_s: float
    """All allreduces."""
    exposed_s: float
    """Of these, what backward does not hide."""
    straggler_s: float
    """Waiting for the slowest rank."""
    input_s: float = 0.0
    """What reading the step's pictures takes; the loader reads ahead, so only what is longer than the rest counts."""

    @property
    def busy_s(self) -> float:
        """Give all but the input."""
        return self.compute_s + self.exposed_s + self.straggler_s

    @property
    def step_s(self) -> float:
        """Give the whole step."""
        return max(self.busy_s, self.input_s)

    @property
    def waiting_for_input_s(self) -> float:
        """Give what is waited for pictures."""
        return self.step_s - self.busy_s


def predict_step(
    layers: Sequence[Layer],
    cluster: Cluster,
    num_ranks: int,
    num_nodes: int,
    *,
    fusion: Fusion,
    spread: float = 0.0,
    algorithm: Algorithm = "best",
    other_s: float = 0.0,
    input_s: float = 0.0,
    processor_share: float | None = None,
) -> Step:
    """Return what a step of ranks takes that have these layers to do each.

    Args:
        layers: what one rank computes, in forward order.
        cluster: where.
        num_ranks: how many average their gradients.
        num_nodes: on how many nodes they are. Split ranks, of several devices each, need more of them; each device
            averages its own part of the weights, together they are as many bytes as one device's, and go over the
            same cards.
        fusion: Horovod's settings.
        spread: standard deviation of the ranks' arithmetic, as a share of it.
        algorithm: of the allreduce.
        other_s: arithmetic before the first layer or after the gradients are averaged: earlier micro-batches, the
            optimizer.
        input_s: what reading the step's pictures takes.
        processor_share: by how much of its pace backward is slower while an allreduce runs; None: as the link says.
    """
    link = cluster.inside if num_nodes == 1 else cluster.between
    compute_s = sum(layer.forward_s + layer.backward_s for layer in layers) + other_s
    if num_ranks == 1:
        return Step(compute_s, 0.0, 0.0, 0.0, input_s)
    found = exchange(
        layers,
        lambda size: allreduce_s(cluster, num_ranks, num_nodes, size, algorithm),
        fusion,
        negotiation_s=negotiation_s(cluster, num_ranks, num_nodes),
        processor_share=link.processor_share if processor_share is None else processor_share,
    )
    late_s = straggler_s(compute_s, spread, num_ranks)
    return Step(compute_s, found.total_s, found.exposed_s, late_s, input_s)
