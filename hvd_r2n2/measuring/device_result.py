"""The figures of `benchmark device`: speed against the plain network and the machine, memory, and where time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hvd_r2n2.common.statistics import Spread, spread_of_ratios
from hvd_r2n2.config import Config, ModelConfig
from hvd_r2n2.measuring.arithmetic import Arithmetic, count_arithmetic, with_counted_form
from hvd_r2n2.measuring.device_arms import MATRIX, PLAIN
from hvd_r2n2.measuring.matrix import matrix_rates
from hvd_r2n2.measuring.operations import Profile
from hvd_r2n2.measuring.result import ArmResult

_SHOWN_OPERATIONS = 40


def machine_rates(results: Sequence[ArmResult]) -> dict[str, dict[str, Any]]:
    """Return the machine's rate by type: that of the best shape, and of all."""
    rates = {}
    for result in results:
        if result.arm.kind == "matrix":
            by_shape = matrix_rates([processes[0] for processes in result.steps])
            rates[result.arm.name.removeprefix(MATRIX)] = {"best": max(by_shape.values()), "by_shape": by_shape}
    return rates


def device_entries(
    results: Sequence[ArmResult], config: Config, rates: Mapping[str, Mapping[str, Any]], num_views: int
) -> list[dict[str, Any]]:
    """Return the figures of each arm of a part."""
    plain = next(result for result in results if result.arm.name == PLAIN)
    counted: dict[tuple[ModelConfig, int], Arithmetic] = {}
    entries = []
    for result in results:
        own = result.arm.config(config)
        key = with_counted_form(own.model), result.samples
        if key not in counted:
            counted[key] = count_arithmetic(*key, num_views)
        needed = counted[key].forward if result.arm.kind == "inference" else counted[key].step
        rate = rates[own.train.dtype]["best"]
        times = Spread.of(result.times_s)
        per_sample = [seconds / result.samples for seconds in result.times_s]
        plain_per_sample = [seconds / plain.samples for seconds in plain.times_s]
        pictures_per_s = result.samples * num_views / times.median
        (memory,) = result.memory
        assert result.profile is not None
        # On a CPU what inference holds for a moment is only known from the profiler.
        is_counted = memory.allocated is not None or result.arm.kind != "inference"
        peak_bytes = memory.peak_bytes if is_counted else memory.peak_bytes + result.profile.peak_bytes
        entries.append(
            {
                "dtype": own.train.dtype,
                "samples_per_step": result.samples,
                "num_views": num_views,
                "median_s": times.median,
                "quartiles_s": list(times.quartiles),
                "times_s": result.times_s,
                "images_per_s": pictures_per_s,
                "views_per_s": pictures_per_s,
                "samples_per_s": result.samples / times.median,
                "ratio_to_plain": Spread.of(plain_per_sample).median / Spread.of(per_sample).median,
                "ratio_quartiles": list(spread_of_ratios(per_sample, plain_per_sample).quartiles),
                "flop": needed,
                "flop_per_s": needed / times.median,
                "matrix_rate": rate,
                "of_matrix_rate": needed / times.median / rate,
                "peak_memory_bytes": peak_bytes,
                "memory": asdict(memory),
                "resident_bytes": max(done.resident_bytes for step in result.steps for done in step),
                "notes": list(result.notes),
                **_breakdown(result.profile),
            }
        )
    return entries


def _breakdown(profile: Profile) -> dict[str, Any]:
    return {
        "profiled_step_s": profile.step_s,
        "profiled_peak_bytes": profile.peak_bytes,
        "breakdown": {
            kind: {"seconds": profile.seconds[kind], "share": profile.shares[kind]} for kind in profile.seconds
        },
        "operations": [asdict(operation) for operation in profile.operations[:_SHOWN_OPERATIONS]],
    }
