"""How fast a run is and where a step's time goes."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class StepTimes:
    """Figures of the steps since the last line, on this rank."""

    step_s: list[float] = field(default_factory=list)
    """Whole steps."""
    data_s: list[float] = field(default_factory=list)
    """Waiting for the next batch."""
    communication_s: list[float] = field(default_factory=list)
    """Waiting for gradients after backward had ended."""
    num_images: int = 0
    """Pictures of the global batches: samples times views."""
    num_samples: int = 0
    """Samples of the global batches."""

    def add(self, step_s: float, data_s: float, communication_s: float, num_samples: int, num_views: int) -> None:
        """Take one step in; `num_samples` is the global batch."""
        self.step_s.append(step_s)
        self.data_s.append(data_s)
        self.communication_s.append(communication_s)
        self.num_samples += num_samples
        self.num_images += num_samples * num_views

    def figures(self) -> dict[str, float]:
        """Return what is reported, by name."""
        total_s = sum(self.step_s)
        by_length = sorted(self.step_s)
        return {
            "speed/samples_per_s": self.num_samples / total_s,
            "speed/images_per_s": self.num_images / total_s,
            "time/step_median_s": statistics.median(by_length),
            "time/step_95th_s": by_length[min(len(by_length) - 1, int(0.95 * len(by_length)))],
            "time/data_share": sum(self.data_s) / total_s,
            "time/communication_share": sum(self.communication_s) / total_s,
        }


def over_ranks(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return one set of figures for all ranks: shares as means, speeds of the slowest, totals, the rest as maxima."""

    def combine(name: str) -> Callable[[list[float]], float]:
        if name.endswith("_total"):
            return sum
        return statistics.fmean if name.endswith("_share") else min if name.endswith("_per_s") else max

    return {name: combine(name)([rank[name] for rank in figures]) for name in figures[0]}


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: what torch has taken of the GPU, or this process on a CPU.

    On a GPU that is more than tensors have had at a time, and counts what CUDA graphs keep for themselves.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
