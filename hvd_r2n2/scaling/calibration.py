"""The model's link fitted to allreduces that were measured; steps of ranks that share the cores of one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np

from hvd_r2n2.scaling.allreduce import allreduce_s, negotiation_s
from hvd_r2n2.scaling.links import Cluster, Link
from hvd_r2n2.scaling.overlap import Fusion
from hvd_r2n2.scaling.step import Step, predict_step
from hvd_r2n2.scaling.workload import Workload, checked_file, number

KIND, VERSION = "hvd_r2n2 calibration", 1


@dataclass(frozen=True)
class Point:
    """A burst of allreduces that was measured."""

    num_ranks: int
    count: int
    """Tensors that were handed over at once and averaged one after another."""
    size: int
    """Bytes of each."""
    seconds: float
    """From when the last rank had handed them over until the last one had all means."""


@dataclass(frozen=True)
class Polling:
    """What Horovod's threads and MPI, which ask again and again, take of the cores: shares of the time of computing."""

    looking: float = 0.0
    """While no rank has anything to average."""
    sending: float = 1.0
    """While an allreduce runs, of what is left then."""


@dataclass(frozen=True)
class Shared:
    """One machine, whose cores ranks share."""

    cores: int
    slowdown: float = 1.0
    """By how much computing is slower while all cores compute, of which each has its own work."""

    def factor(self, num_ranks: int, polling: Polling) -> float:
        """Give by how much a rank's arithmetic is slower than that of one rank alone; each rank keeps to one core."""
        if num_ranks == 1:
            return 1.0
        return ceil(num_ranks / self.cores) * self.slowdown / (1 - polling.looking)


def fit_link(name: str, points: Sequence[Point], *, cores: int, processor_share: float, cycle_s: float) -> Link:
    """Return the link with which the model's ring comes nearest to what was measured.

    Least squares of relative errors over four constants, none below 0: seconds of a message by which ranks agree, of an
    allreduce, of a message, and of a byte.

    Args:
        name: of the link.
        points: at least one; several sizes and numbers of ranks are needed to tell the constants apart.
        cores: that the ranks share.
        processor_share: share of a transfer's time for which a core works at it.
        cycle_s: Horovod's, after which a burst starts.
    """
    shape = Link(name, 0.0, 1.0, lanes=cores, processor_share=processor_share)
    # The model is a sum of its constants: what each contributes is what a link gives in which it alone is 1.
    rows = []
    for point in points:
        hops = 2 * ceil(log2(point.num_ranks)) * shape.turns(point.num_ranks)
        messages = 2 * (point.num_ranks - 1) * point.count
        bytes_of = messages * shape.message_s(point.size / point.num_ranks, point.num_ranks)
        rows.append([hops, point.count, messages * shape.turns(point.num_ranks), bytes_of])
    seconds = np.array([point.seconds for point in points])
    hop_s, call_s, latency_s, byte_s = _least_squares(
        np.array(rows) / seconds[:, None], np.maximum(seconds - cycle_s, 0) / seconds
    )
    if byte_s <= 0:
        raise ValueError(f"{name}: no bandwidth can be told from what was measured: larger tensors are needed")
    return replace(shape, latency_s=latency_s, line_bytes_per_s=1 / byte_s, call_s=call_s, hop_s=hop_s)


def burst_s(link: Link, num_ranks: int, count: int, size: int, cycle_s: float) -> float:
    """Return what the model gives for a burst: a cycle, the ranks' agreement, one allreduce after another."""
    cluster = _one_machine(link)
    one_s = allreduce_s(cluster, num_ranks, 1, size, "ring")
    return cycle_s + negotiation_s(cluster, num_ranks, 1) + count * one_s


def predict_shared(
    workload: Workload, link: Link, shared: Shared, num_ranks: int, fusion: Fusion, polling: Polling
) -> Step:
    """Return what a step of ranks takes that share the batch and the cores of one machine.

    Args:
        workload: what the layers take on one core while nothing else runs.
        link: between the ranks.
        shared: the machine.
        num_ranks: how many.
        fusion: Horovod's settings.
        polling: of so many ranks over this link.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    if workload.batch_size % num_ranks:
        raise ValueError(f"{workload.batch_size} samples cannot be shared out over {num_ranks} ranks evenly")
    factor = shared.factor(num_ranks, polling)
    layers = tuple(
        replace(layer, forward_s=factor * layer.forward_s, backward_s=factor * layer.backward_s)
        for layer in workload.layers(workload.batch_size // num_ranks)
    )
    return predict_step(
        layers,
        _one_machine(link),
        num_ranks,
        num_nodes=1,
        fusion=fusion,
        algorithm="ring",
        other_s=factor * workload.other_s,
        processor_share=polling.sending,
    )


def read_calibration(path: Path) -> tuple[dict[str, Link], Fusion]:
    """Read the links that a calibration fitted, by name, and the settings that its ranks' Horovod had.

    Raises:
        ValueError: it is another file, of another version, or damaged; names the file.
        OSError: it cannot be read.
    """
    content = checked_file(path, KIND, VERSION, "python -m hvd_r2n2.plan scale --calibrate --json FILE")
    try:
        links = {str(name): _link(str(name), found) for name, found in content["links"].items()}
        fusion = content["fusion"]
        threshold_bytes = int(number(fusion["threshold_bytes"], "threshold_bytes"))
        return links, Fusion(threshold_bytes, number(fusion["cycle_s"], "cycle_s"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _link(name: str, found: dict[str, Any]) -> Link:
    values: dict[str, Any] = {
        key: number(found[key], key, least)
        for key, least in (
            ("latency_s", 0.0),
            ("line_bytes_per_s", 1.0),
            ("call_s", 0.0),
            ("lanes", 1.0),
            ("processor_share", 0.0),
            ("hop_s", 0.0),
        )
    }
    return Link(name, **values)


def _one_machine(link: Link) -> Cluster:
    return Cluster(link.name, link, link)


def _least_squares(rows: np.ndarray, wanted: np.ndarray) -> tuple[float, ...]:
    """Return the best factors of the columns of which none is below 0: all sets of columns are tried."""
    best, best_error = np.zeros(rows.shape[1]), float(wanted @ wanted)
    for count in range(1, rows.shape[1] + 1):
        for columns in map(list, combinations(range(rows.shape[1]), count)):
            found = np.linalg.lstsq(rows[:, columns], wanted, rcond=None)[0]
            error = float(np.sum((rows[:, columns] @ found - wanted) ** 2))
            if (found >= 0).all() and error < best_error:
                best, best_error = np.zeros(rows.shape[1]), error
                best[columns] = found
    return tuple(float(one) for one in best)
