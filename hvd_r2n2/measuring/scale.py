"""What `plan scale` predicts: a step's costs, measured here or counted for another device, over clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hvd_r2n2.comm import Alone
from hvd_r2n2.common.hardware import find_hardware
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.comparison import for_random_batches
from hvd_r2n2.measuring.prediction import measure_devices
from hvd_r2n2.measuring.report import provenance
from hvd_r2n2.measuring.step_costs import counted_workload, measured_workload
from hvd_r2n2.scaling.comparison import Conditions, Row, compare
from hvd_r2n2.scaling.devices import find_device
from hvd_r2n2.scaling.workload import Workload
from hvd_r2n2.training.machine_costs import Effort
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.planning import Report


@dataclass(frozen=True)
class Scaling:
    """What was predicted."""

    rows: tuple[Row, ...]
    content: dict[str, Any]
    """Everything, as plain data."""


def measure_workload(config: Config, effort: Effort, report: Report) -> Workload:
    """Measure what a step costs here, whole and split as the settings allow, up to the whole batch.

    With CUDA graphs, which are for one device a rank, no split is measured.

    Raises:
        ValueError: the settings are not possible here.
    """
    given = for_random_batches(config)
    if given.split.strategy == "none" and not given.train.cuda_graphs:
        given = replace(given, split=replace(given.split, strategy="auto"))
    placement = place_rank(given, Alone(), report)
    job, costs = measure_devices(given, placement, 1, effort, report)
    without = ", without CUDA graphs" if config.train.cuda_graphs else ""
    source = f"measured on {', '.join(placement.names)} of {find_hardware().text}{without}"
    return measured_workload(given, job, costs, source)


def assume_workload(config: Config, device: str, share: float) -> Workload:
    """Count what a step costs on a device that is not here: its published peak, of which a share is assumed.

    Raises:
        ValueError: the device is not known, has no peak for `train.dtype`, or the share is not possible.
    """
    found, train = find_device(device), config.train
    is_tf32 = train.dtype == "float32" and train.tf32 and "tf32" in found.peak_flops
    arithmetic = "tf32" if is_tf32 else train.dtype
    rate = found.rate(arithmetic, share)
    source = f"counted; assumed: {share:.0%} of the published {arithmetic} peak of {device}, {rate / 1e12:.3g} TFLOP/s"
    return counted_workload(for_random_batches(config), rate, source)


def predict(
    workload: Workload, conditions: Conditions, counts: Sequence[int], command: str, settings: Mapping[str, Any]
) -> Scaling:
    """Predict every arrangement over so many devices; `settings` are those that the prediction went by."""
    rows, left_out = compare(workload, conditions, counts)
    content = {
        **provenance(command),
        "workload": {
            "name": workload.name,
            "source": workload.source,
            "batch_size": workload.batch_size,
            "steps": workload.steps,
            "accumulation": workload.accumulation,
            "images_per_sample": workload.images_per_sample,
            "bytes_per_image": workload.bytes_per_image,
            "gradient_bytes": workload.gradient_bytes,
            "split_speedups": dict(workload.split_speedups),
            "cuda_graphs": workload.cuda_graphs,
        },
        "assumptions": {
            "network": conditions.cluster.assumptions,
            "cluster": asdict(conditions.cluster),
            "fusion": asdict(conditions.fusion),
            "spread": conditions.spread,
            "algorithm": conditions.algorithm,
            "storage": asdict(conditions.storage),
            "price": conditions.price,
        },
        "rows": [row.as_dict() for row in rows],
        "left_out": left_out,
        "settings": settings,
    }
    return Scaling(rows, content)


def with_speedup(workload: Workload, speedup: float | None) -> Workload:
    """Return the costs with what a split of two devices gains, where that is given."""
    return workload if speedup is None else replace(workload, split_speedups={workload.batch_size: speedup})
