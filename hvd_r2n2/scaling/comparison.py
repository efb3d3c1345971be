"""Plain data parallelism, split ranks and mixtures over the same devices, from one to thousands.

Mixtures are a prediction only: in training all ranks have the same number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any, Literal

from hvd_r2n2.scaling.allreduce import Algorithm
from hvd_r2n2.scaling.links import Cluster
from hvd_r2n2.scaling.overlap import Fusion
from hvd_r2n2.scaling.step import Step, predict_step
from hvd_r2n2.scaling.workload import Workload

Mode = Literal["strong", "weak"]
MODES: tuple[Mode, ...] = ("strong", "weak")
PLAIN, SPLIT, MIXTURE = "data parallel", "split ranks", "mixture"
ARRANGEMENTS = (PLAIN, SPLIT, MIXTURE)
_MOST_RANKS = 1 << 20


@dataclass(frozen=True)
class Storage:
    """Where pictures come from; None is never too slow."""

    node_images_per_s: float | None = None
    """What a node reads and prepares."""
    shared_bytes_per_s: float | None = None
    """What the file system gives to all nodes together."""

    def step_s(self, images: float, bytes_per_image: float, num_nodes: int) -> float:
        """Return what the pictures of a step take."""
        node_s = images / num_nodes / self.node_images_per_s if self.node_images_per_s else 0.0
        shared_s = images * bytes_per_image / self.shared_bytes_per_s if self.shared_bytes_per_s else 0.0
        return max(node_s, shared_s)


@dataclass(frozen=True)
class Conditions:
    """What does not change from row to row."""

    cluster: Cluster
    fusion: Fusion = field(default_factory=Fusion)
    spread: float = 0.0
    """Of the ranks' arithmetic: standard deviation as a share of it."""
    algorithm: Algorithm = "best"
    storage: Storage = field(default_factory=Storage)
    price: float | None = None
    """Of a device for an hour."""

    def __post_init__(self) -> None:
        if self.algorithm == "tree" and not self.cluster.has_trees:
            raise ValueError(f"algorithm tree: is NCCL's, which does not average over {self.cluster.name} (use ring)")


@dataclass(frozen=True)
class Row:
    """One arrangement of so many devices."""

    mode: Mode
    """`strong`: the batch of the settings over all devices; `weak`: that batch on each device."""
    arrangement: str
    devices: int
    ranks: int
    nodes: int
    samples: int
    """Of a step, all ranks together."""
    samples_of_a_rank: int
    """Of the rank that has most."""
    is_even: bool
    """Whether all ranks have as many, in as many parts as they are taken in, which training demands."""
    step: Step
    images_per_s: float
    efficiency: float
    """Images/s over those of as many single devices."""
    device_hours: float
    """Of the configured number of steps."""
    hours: float
    cost: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        extra = {"step_s": self.step.step_s, "waiting_for_input_s": self.step.waiting_for_input_s}
        return asdict(self) | {"step": asdict(self.step) | extra}


def parse_ranks(text: str) -> tuple[int, ...]:
    """Return the numbers that `1..4096` (doubling from the first, and the last) or `1,2,36` means.

    Raises:
        ValueError: it is neither.
    """
    hint = "write 1..4096, which doubles from 1 to 4096, or a list such as 1,2,36"
    try:
        if ".." in text:
            first, last = (int(part) for part in text.split(".."))
            counts = [first]
            while 0 < counts[-1] * 2 <= last:
                counts.append(counts[-1] * 2)
            if first > last:
                raise ValueError
            counts = sorted({*counts, last})
        else:
            counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(f"--ranks {text}: {hint}") from None
    if counts[0] < 1 or counts[-1] > _MOST_RANKS:
        raise ValueError(f"--ranks {text}: between 1 and {_MOST_RANKS:,}; {hint}")
    return tuple(counts)


def compare(
    workload: Workload, conditions: Conditions, counts: Sequence[int]
) -> tuple[tuple[Row, ...], dict[str, str]]:
    """Return a row for every mode, arrangement and number of devices that is possible; and why others are not."""
    rows, left_out = list[Row](), dict[str, str]()
    for mode in MODES:
        for arrangement in ARRANGEMENTS:
            for count in counts:
                try:
                    rows.append(predict_row(workload, conditions, mode, arrangement, count))
                except ValueError as error:
                    left_out[f"{mode}, {arrangement}, {count} device(s)"] = str(error)
    return tuple(rows), left_out


def predict_row(workload: Workload, conditions: Conditions, mode: Mode, arrangement: str, num_devices: int) -> Row:
    """Return what one arrangement comes to.

    Raises:
        ValueError: there are too few devices or samples for it.
    """
    samples = workload.batch_size * (num_devices if mode == "weak" else 1)
    kinds = _kinds(workload, arrangement, num_devices, conditions.cluster.devices_per_node)
    num_ranks = sum(kind.ranks for kind in kinds)
    if samples < num_ranks:
        raise ValueError(f"{samples} samples cannot be shared out over {num_ranks} ranks")
    step, largest, is_even = min(
        _steps(workload, conditions, kinds, samples, num_devices), key=lambda found: found[0].step_s
    )
    images = samples * workload.images_per_sample
    alone_s = _alone(workload, conditions)
    device_hours = num_devices * step.step_s * workload.steps / 3600
    one = workload.batch_size * workload.images_per_sample / alone_s
    return Row(
        mode=mode,
        arrangement=arrangement,
        devices=num_devices,
        ranks=num_ranks,
        nodes=conditions.cluster.num_nodes(num_devices),
        samples=samples,
        samples_of_a_rank=largest,
        is_even=is_even,
        step=step,
        images_per_s=images / step.step_s,
        efficiency=images / step.step_s / num_devices / one,
        device_hours=device_hours,
        hours=device_hours / num_devices,
        cost=None if conditions.price is None else conditions.price * device_hours,
    )


@dataclass(frozen=True)
class _Kind:
    """Ranks that are alike."""

    ranks: int
    is_split: bool


def _kinds(workload: Workload, arrangement: str, num_devices: int, devices_per_node: int) -> tuple[_Kind, ...]:
    width = workload.split_devices
    if arrangement == PLAIN:
        return (_Kind(num_devices, False),)
    if num_devices > devices_per_node and devices_per_node % width:
        raise ValueError(f"{devices_per_node} device(s) a node are no whole number of ranks with {width} each")
    if arrangement == SPLIT:
        if num_devices % width:
            raise ValueError(f"{num_devices} device(s) are no whole number of ranks with {width} each")
        return (_Kind(num_devices // width, True),)
    # Half of the devices in split ranks, the other half on their own.
    if num_devices % (2 * width):
        raise ValueError(f"{num_devices} device(s) are no whole number of groups of {2 * width}")
    return (_Kind(num_devices // 2, False), _Kind(num_devices // 2 // width, True))


def _steps(
    workload: Workload, conditions: Conditions, kinds: Sequence[_Kind], samples: int, num_devices: int
) -> Iterator[tuple[Step, int, bool]]:
    """Give the ways to share samples out: evenly, or in a mixture so that split ranks have more."""
    num_ranks = sum(kind.ranks for kind in kinds)
    is_even = samples % (num_ranks * workload.accumulation) == 0
    if len(kinds) == 1:
        share = ceil(samples / num_ranks)
        step = _step(workload, conditions, kinds[0].is_split, share, num_ranks, samples, num_devices)
        yield step, share, is_even
        return
    plain, split = kinds
    even = samples // num_ranks
    for own in {max(1, even - change) for change in range(even + 1)}:
        other = ceil((samples - own * plain.ranks) / split.ranks)
        if other < 1:
            continue
        found = [
            _step(workload, conditions, is_split, share, num_ranks, samples, num_devices)
            for is_split, share in ((False, own), (True, other))
        ]
        yield max(found, key=lambda one: one.step_s), max(own, other), is_even and own == other


def _step(
    workload: Workload,
    conditions: Conditions,
    is_split: bool,
    share: int,
    num_ranks: int,
    samples: int,
    num_devices: int,
) -> Step:
    """Give a step of which one kind of rank, with so many samples, sets the pace."""
    part = max(1.0, share / workload.accumulation)
    layers, faster = workload.layers(part), 1.0
    if is_split:
        faster = workload.split_speedup(share)
        layers = tuple(
            replace(layer, forward_s=layer.forward_s / faster, backward_s=layer.backward_s / faster) for layer in layers
        )
    part_s = sum(layer.forward_s + layer.backward_s for layer in layers)
    num_nodes = conditions.cluster.num_nodes(num_devices)
    images = samples * workload.images_per_sample
    return predict_step(
        layers,
        conditions.cluster,
        num_ranks,
        num_nodes,
        fusion=conditions.fusion,
        spread=conditions.spread,
        algorithm=conditions.algorithm,
        other_s=workload.other_s / faster + (min(workload.accumulation, share) - 1) * part_s,
        input_s=conditions.storage.step_s(images, workload.bytes_per_image, num_nodes),
    )


def _alone(workload: Workload, conditions: Conditions) -> float:
    """Give the step of one device with the whole batch of the settings, however fast its pictures come."""
    free = replace(conditions, storage=Storage())
    return _step(workload, free, False, workload.batch_size, 1, workload.batch_size, 1).step_s
