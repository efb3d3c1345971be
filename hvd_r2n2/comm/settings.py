"""Horovod's own settings: what the user's environment says, then the config, then what was measured to be best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hvd_r2n2.config import HorovodConfig

_CYCLE_TIME, _FUSION, _YIELD = "HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD", "OMPI_MCA_mpi_yield_when_idle"
_USE_RULES, _RULES = "OMPI_MCA_coll_tuned_use_dynamic_rules", "OMPI_MCA_coll_tuned_dynamic_rules_filename"

_DEFAULTS = {_CYCLE_TIME: "1", _FUSION: str(128 * 2**20), _YIELD: "0"}
"""Of Horovod 0.28.1 (milliseconds, bytes) and of Open MPI 4.1."""

_ALWAYS = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "60"}
"""Horovod warns; it is `StallWatch` that ends the job."""

# Measured with 2 ranks on 2 cores and 137 MiB of gradients (README, "Two ranks"): copying gradients into Horovod's
# fusion buffer costs more than it saves, and a thread of MPI that waits without yielding takes the core from backward.
_ON_CPUS = {_FUSION: "0", _YIELD: "1"}


SEGMENTED_RING = {_USE_RULES: "1", _RULES: str(Path(__file__).with_name("allreduce.rules"))}
"""With which Open MPI averages what is large between hosts.

Over TCP, a rank's word that it is ready for a large message waits behind what the rank itself sends, so that the two
directions of a line take turns and Open MPI's own algorithms take up to twice the time of the line. Segments of a ring
are sent without such a word. Through memory they only mean more waiting (benchmarks/README.md, "Horovod's settings").
"""


def horovod_environment(
    config: HorovodConfig, environment: Mapping[str, str], *, has_gpu: bool, on_several_hosts: bool = False
) -> dict[str, str]:
    """Return the variables to start Horovod with; those that `environment` has already stay as they are."""
    chosen = _ALWAYS | ({} if has_gpu else _ON_CPUS)
    if on_several_hosts and not environment.keys() & SEGMENTED_RING.keys():
        chosen |= SEGMENTED_RING
    if config.cycle_time_ms is not None:
        chosen[_CYCLE_TIME] = f"{config.cycle_time_ms:g}"
    if config.fusion_threshold_mib is not None:
        chosen[_FUSION] = str(round(config.fusion_threshold_mib * 2**20))
    return {name: environment.get(name, value) for name, value in chosen.items()}


def in_words(environment: Mapping[str, str], *, is_mpi: bool) -> str:
    """Say with which of its settings Horovod runs, those of its own accord included."""
    cycle, fusion, is_yielding = (environment.get(name, default) for name, default in _DEFAULTS.items())
    threshold = f"{int(fusion) / 2**20:g} MiB" if fusion.isdigit() else fusion
    return ", ".join(
        [
            f"cycles of {cycle} ms",
            "no fusion" if fusion == "0" else f"fusion up to {threshold}",
            *(["yielding when idle"] if is_mpi and is_yielding == "1" else []),
            *(["large means by a segmented ring"] if is_mpi and SEGMENTED_RING.items() <= environment.items() else []),
        ]
    )
