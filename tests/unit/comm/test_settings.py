"""Horovod's settings: the environment before the config, the config before what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvd_r2n2.comm.settings import SEGMENTED_RING, horovod_environment, in_words
from hvd_r2n2.config import HorovodConfig, load_config

FUSION, CYCLE, YIELD = "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME", "OMPI_MCA_mpi_yield_when_idle"
USE_RULES, RULES = "OMPI_MCA_coll_tuned_use_dynamic_rules", "OMPI_MCA_coll_tuned_dynamic_rules_filename"
GIVEN = HorovodConfig(cycle_time_ms=2.5, fusion_threshold_mib=0.5)


def test_ranks_on_cpus_neither_fuse_nor_spin_unless_told_to() -> None:
    assert horovod_environment(HorovodConfig(), {}, has_gpu=False).items() >= {FUSION: "0", YIELD: "1"}.items()
    assert not horovod_environment(HorovodConfig(), {}, has_gpu=True).keys() & {FUSION, CYCLE, YIELD}


@pytest.mark.parametrize("has_gpu", [False, True])
def test_config_goes_before_what_was_measured_and_the_environment_before_the_config(has_gpu: bool) -> None:
    assert horovod_environment(GIVEN, {}, has_gpu=has_gpu).items() >= {FUSION: "524288", CYCLE: "2.5"}.items()
    told = {FUSION: "7", CYCLE: "3", YIELD: "0", "HOROVOD_STALL_CHECK_TIME_SECONDS": "5"}
    assert told.items() >= horovod_environment(GIVEN, told, has_gpu=has_gpu).items()


def test_what_is_used_is_said() -> None:
    assert in_words({}, is_mpi=True) == "cycles of 1 ms, fusion up to 128 MiB"
    told = {CYCLE: "3.5"} | horovod_environment(HorovodConfig(), {CYCLE: "3.5"}, has_gpu=False)
    assert in_words(told, is_mpi=True) == "cycles of 3.5 ms, no fusion, yielding when idle"
    assert in_words(SEGMENTED_RING, is_mpi=True).endswith(", large means by a segmented ring")
    assert in_words(told, is_mpi=False) == "cycles of 3.5 ms, no fusion"
    assert in_words({FUSION: "many"}, is_mpi=True) == "cycles of 1 ms, fusion up to many"


def test_only_ranks_on_several_hosts_have_the_ring_unless_the_user_has_rules() -> None:
    own = horovod_environment(HorovodConfig(), {}, has_gpu=False, on_several_hosts=True)
    assert own.items() >= SEGMENTED_RING.items()
    assert Path(own[RULES]).is_file()
    assert not horovod_environment(HorovodConfig(), {}, has_gpu=False).keys() & SEGMENTED_RING.keys()
    for told in ({USE_RULES: "0"}, {USE_RULES: "1", RULES: "mine"}):
        given = horovod_environment(HorovodConfig(), told, has_gpu=False, on_several_hosts=True)
        assert not given.keys() & SEGMENTED_RING.keys()


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"horovod.cycle_time_ms: 0.0 is not possible \(0.1 to 1,000\)"):
        load_config(None, ["horovod.cycle_time_ms=0"])
    with pytest.raises(ValueError, match=r"horovod.fusion_threshold_mib: -1.0 is not possible \(0 to 1,024\)"):
        load_config(None, ["horovod.fusion_threshold_mib=-1"])
