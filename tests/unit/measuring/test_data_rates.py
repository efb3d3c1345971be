"""The figures of `benchmark data` from times, and memory from what the system writes."""

from __future__ import annotations

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.data_rates import ARMS, ArmRates, DataRequest, entries, measure_data
from hvd_r2n2.measuring.data_worker import Rate, _kilobytes, _lines_of_caches

SMAPS = """\
55d0a0000000-55d0a0001000 r--p 00000000 fe:00 1234                       /usr/bin/python3.11
Rss:                   4 kB
Pss:                   1 kB
7f00a0000000-7f00a9000000 r--s 00000000 fe:00 99                         /data/a folder/03001627-32-0123.cache
Size:             147456 kB
Rss:                 200 kB
Pss:                 100 kB
Private_Clean:         8 kB
Private_Dirty:         2 kB
VmFlags: rd mr mw me ms sd
7f00aa000000-7f00ab000000 rw-p 00000000 00:00 0
Rss:                1000 kB
Pss:                1000 kB
7f00b0000000-7f00b9000000 r--s 00000000 fe:00 98                         /data/a folder/03636649-32-4567.cache
Rss:                  20 kB
Pss:                  10 kB
"""


def rate(images: int, start_s: float, end_s: float, cpu_s: float = 1.0) -> Rate:
    return Rate(images, start_s, end_s, cpu_s)


def test_rates_are_of_all_processes_and_ratios_of_a_core_in_the_same_round() -> None:
    decode, batch_2 = (next(arm for arm in ARMS if arm.name == name) for name in ("decode", "cache-batch-2"))
    found = [
        ArmRates(decode, ((rate(100, 0, 1),), (rate(100, 5, 7),), (rate(300, 8, 9),))),
        # 2000 and 4000 pictures in 2 s from first start to last end; then 3000 in 1 s; then 6000 in 3 s.
        ArmRates(
            batch_2,
            (
                (rate(2000, 1, 2.5), rate(4000, 1.5, 3)),
                (rate(1000, 7, 8, 0.5), rate(2000, 7, 8, 0.5)),
                (rate(3000, 9, 12, 3), rate(3000, 9, 12, 3)),
            ),
        ),
    ]
    one, two = entries(found)
    assert one["rates"] == [100, 50, 300]
    assert one["images_per_s"] == 100
    assert one["of_decode_a_core"] == 1
    assert two["rates"] == [3000, 3000, 2000]
    assert (two["images_per_s"], two["images_per_s_a_core"]) == (3000, 1500)
    # By round: 1500/100, 1500/50, 1000/300.
    assert two["of_decode_a_core"] == pytest.approx(15)
    assert two["of_decode_quartiles"] == pytest.approx(((10 / 3 + 15) / 2, 22.5))
    assert two["busy_cores"] == pytest.approx(2 * 9 / 11)


def test_memory_of_caches_is_that_of_their_mappings() -> None:
    lines = SMAPS.splitlines()
    assert _kilobytes(lines)["Rss"] == (4 + 200 + 1000 + 20) * 1024
    found = _kilobytes(_lines_of_caches(lines))
    assert found == {name: value * 1024 for name, value in zip(found, (220, 110, 8, 2), strict=True)}


def test_what_cannot_be_measured_is_an_error() -> None:
    for settings in ({"rounds": 0, "seconds": 1.0}, {"rounds": 1, "seconds": 0.0}, {"rounds": 1, "seconds": -1.0}):
        with pytest.raises(ValueError, match="is not possible"):
            DataRequest(**settings, command="", report=print)  # type: ignore[arg-type]
    config = load_config(None, ["model.name=alexnet"])
    with pytest.raises(ValueError, match="must be a network of 3D-R2N2, not alexnet"):
        measure_data(config, DataRequest(1, 1.0, "", print))
