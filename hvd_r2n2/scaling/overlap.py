"""How much of averaging gradients hides behind backward: Horovod's cycles and fusion, played through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from hvd_r2n2.config import HorovodConfig


@dataclass(frozen=True)
class Layer:
    """A piece of a network, in one step on one device."""

    name: str
    forward_s: float
    backward_s: float
    gradients: tuple[int, ...] = ()
    """Bytes of each tensor whose gradient is complete when this layer's backward ends."""


@dataclass(frozen=True)
class Fusion:
    """Horovod's settings. The defaults are those of 0.28; this project's CPU ranks do not fuse."""

    threshold_bytes: int = 128 * 2**20
    """HOROVOD_FUSION_THRESHOLD: tensors are averaged together up to so many bytes; 0: each on its own."""
    cycle_s: float = 1e-3
    """HOROVOD_CYCLE_TIME: at most once in this time it is looked for what is ready."""

    def with_settings(self, settings: HorovodConfig) -> Fusion:
        """Return these with what the settings say instead, where they say something."""
        cycle_ms, threshold_mib = settings.cycle_time_ms, settings.fusion_threshold_mib
        return Fusion(
            self.threshold_bytes if threshold_mib is None else round(threshold_mib * 2**20),
            self.cycle_s if cycle_ms is None else cycle_ms / 1e3,
        )


@dataclass(frozen=True)
class Exchange:
    """What averaging a step's gradients took."""

    exposed_s: float
    """By how much the last gradient's mean comes after what backward alone takes."""
    total_s: float
    """All allreduces together, with what ranks need to agree."""
    sizes: tuple[int, ...]
    """Bytes of each allreduce, in order."""


class _Backward:
    """The backward pass, which goes on while gradients are sent, at full pace or slower."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._marks: list[tuple[float, tuple[int, ...]]] = []
        self.total_s = 0.0
        for layer in reversed(layers):
            self.total_s += layer.backward_s
            self._marks.append((self.total_s, layer.gradients))
        self._done_s = 0.0
        self._position = 0

    @property
    def next_s(self) -> float | None:
        """Time of work until more gradients are complete; None when all are."""
        return None if self._position == len(self._marks) else self._marks[self._position][0] - self._done_s

    @property
    def left_s(self) -> float:
        return self.total_s - self._done_s

    def go_on(self, work_s: float) -> list[int]:
        """Do some work; return the tensors that became ready."""
        self._done_s = min(self.total_s, self._done_s + work_s)
        ready: list[int] = []
        while self._position < len(self._marks) and self._marks[self._position][0] <= self._done_s + 1e-12:
            ready += self._marks[self._position][1]
            self._position += 1
        return ready


def exchange(
    layers: Sequence[Layer],
    allreduce_s: Callable[[int], float],
    fusion: Fusion,
    *,
    negotiation_s: float = 0.0,
    processor_share: float = 0.0,
) -> Exchange:
    """Play a backward pass with its allreduces, which run one after another.

    Args:
        layers: in forward order; backward goes the other way.
        allreduce_s: time of an allreduce of so many bytes.
        fusion: when it is looked for what is ready, and how much of it is averaged together.
        negotiation_s: what the ranks need to agree, in every cycle that finds something.
        processor_share: by how much of its pace backward is slower while an allreduce runs.
    """
    backward = _Backward(layers)
    now_s = total_s = 0.0
    woken_s = -fusion.cycle_s
    ready: list[int] = []
    sizes: list[int] = []
    while ready or backward.next_s is not None:
        wake_s = max(now_s, woken_s + fusion.cycle_s)
        ready += backward.go_on(wake_s - now_s)
        now_s = wake_s
        while not ready and (waiting_s := backward.next_s) is not None:
            # Cycles that find nothing: on to the first one after the next gradient.
            cycles = ceil(waiting_s / fusion.cycle_s) if fusion.cycle_s else 0
            step_s = max(waiting_s, cycles * fusion.cycle_s)
            ready += backward.go_on(step_s)
            now_s += step_s
        woken_s = now_s
        groups = fuse(ready, fusion.threshold_bytes)
        ready = []
        for number, size in enumerate(groups):
            taken_s = allreduce_s(size) + (negotiation_s if number == 0 else 0.0)
            ready += backward.go_on(taken_s * (1 - processor_share))
            now_s += taken_s
            total_s += taken_s
            sizes.append(size)
    # What is left is a last piece without gradients.
    return Exchange(max(0.0, now_s + backward.left_s - backward.total_s) if sizes else 0.0, total_s, tuple(sizes))


def fuse(sizes: Sequence[int], threshold_bytes: int) -> list[int]:
    """Return the sizes of the groups that tensors are averaged in, in their order; a larger one stays alone."""
    groups: list[int] = []
    for size in sizes:
        if groups and groups[-1] + size <= threshold_bytes:
            groups[-1] += size
        else:
            groups.append(size)
    return groups
