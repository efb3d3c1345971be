"""Links fitted to made-up times, steps on shared cores by hand, and the file of links."""

import json
from collections.abc import Iterator
from math import ceil, log2
from pathlib import Path

import pytest

from hvd_r2n2.scaling.calibration import (
    KIND,
    VERSION,
    Point,
    Polling,
    Shared,
    burst_s,
    fit_link,
    predict_shared,
    read_calibration,
)
from hvd_r2n2.scaling.links import Link, find_cluster
from hvd_r2n2.scaling.overlap import Fusion, Layer
from hvd_r2n2.scaling.workload import Profile, Workload

LATENCY_S, BYTE_S, CALL_S, HOP_S, CYCLE_S = 2e-5, 1e-9, 3e-5, 1e-4, 1e-3
LAYERS = (Layer("first", 0.1, 0.2, (1000,)), Layer("last", 0.3, 0.4, (2000,)))
WORKLOAD = Workload("hand", "by hand", (Profile(1, LAYERS),), batch_size=8, steps=1, other_s=0.05)


def made_up_points(processor_share: float, noise: float = 0.0) -> Iterator[Point]:
    """Give times by hand: on 2 cores messages of n ranks take turns, n / 2 of them a core."""
    sign = 1
    for ranks in (2, 4, 8):
        turns = ranks / 2
        for count, size in ((1, 4096), (16, 4096), (16, 2**16), (4, 2**20), (1, 2**24)):
            byte_s = BYTE_S * (processor_share * turns + 1 - processor_share)
            message_s = LATENCY_S * turns + size / ranks * byte_s
            one_s = CALL_S + 2 * (ranks - 1) * message_s
            sign = -sign
            seconds = CYCLE_S + 2 * ceil(log2(ranks)) * HOP_S * turns + count * one_s
            yield Point(ranks, count, size, seconds * (1 + sign * noise))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_constants_that_times_were_made_from_are_found_again(share: float) -> None:
    points = list(made_up_points(share))
    link = fit_link("hand", points, cores=2, processor_share=share, cycle_s=CYCLE_S)
    found = (link.latency_s, 1 / link.bytes_per_s, link.call_s, link.hop_s)
    assert found == pytest.approx((LATENCY_S, BYTE_S, CALL_S, HOP_S), rel=1e-4)
    for point in points:
        assert burst_s(link, point.num_ranks, point.count, point.size, CYCLE_S) == pytest.approx(point.seconds)


def test_no_constant_is_below_zero_whatever_was_measured() -> None:
    link = fit_link("hand", list(made_up_points(1.0, 0.2)), cores=2, processor_share=1.0, cycle_s=CYCLE_S)
    assert min(link.latency_s, link.call_s, link.hop_s or 0.0) >= 0
    assert link.bytes_per_s == pytest.approx(1 / BYTE_S, rel=0.3)


def test_times_that_do_not_grow_with_the_size_have_no_bandwidth() -> None:
    points = [Point(2, 1, size, 0.01) for size in (4096, 2**20)]
    with pytest.raises(ValueError, match="tcp: no bandwidth can be told"):
        fit_link("tcp", points, cores=2, processor_share=1.0, cycle_s=CYCLE_S)


def test_ranks_share_the_cores() -> None:
    free = Link("free", 0.0, 1e12, processor_share=0.0)
    shared = Shared(cores=2, slowdown=1.1)
    # A sample takes 1 s and what is done once a step 0.05 s: 8, 4, 2 and 1 samples a rank; 1, 1, 2 and 4 ranks a core.
    for ranks, seconds in ((1, 8.05), (2, 1.1 * 4.05), (4, 2.2 * 2.05), (8, 4.4 * 1.05)):
        step = predict_shared(WORKLOAD, free, shared, ranks, Fusion(0, 0.0), Polling())
        assert step.compute_s == pytest.approx(seconds)
        assert step.step_s == pytest.approx(seconds, abs=1e-6)
    assert shared.factor(3, Polling()) == pytest.approx(2.2)
    busy = predict_shared(WORKLOAD, free, shared, 4, Fusion(0, 0.0), Polling(looking=0.2))
    assert busy.compute_s == pytest.approx(2.2 * 2.05 / 0.8)


def test_backward_goes_on_while_others_are_asked_at_the_pace_that_is_left() -> None:
    # Backward ends its last layer after 2 s; 4 s of sending leave the first one 4 · (1 - 0.75) of its 1 s.
    layers = (Layer("first", 0.0, 1.0), Layer("last", 0.0, 2.0, (4,)))
    workload = Workload("hand", "by hand", (Profile(1, layers),), batch_size=2, steps=1)
    link = Link("slow", 0.0, 1.0, hop_s=0.0)
    step = predict_shared(workload, link, Shared(2), 2, Fusion(0, 0.0), Polling(sending=0.75))
    assert step.step_s == pytest.approx(6.0)
    stopped = predict_shared(workload, link, Shared(2), 2, Fusion(0, 0.0), Polling(sending=1.0))
    assert stopped.step_s == pytest.approx(7.0)


def test_a_batch_that_does_not_go_round_is_an_error() -> None:
    with pytest.raises(ValueError, match="8 samples cannot be shared out over 3 ranks"):
        predict_shared(WORKLOAD, Link("free", 0.0, 1e12), Shared(2), 3, Fusion(), Polling())


def test_links_of_a_file_stand_beside_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    values = {"latency_s": 1e-5, "line_bytes_per_s": 1e9, "call_s": 0.0, "lanes": 2, "processor_share": 1.0}
    content = {
        "kind": KIND,
        "version": VERSION,
        "links": {"1gbit": {**values, "hop_s": 1e-4, "share": 1.0}},
        "fusion": {"threshold_bytes": 0, "cycle_s": 5e-3},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    links, fusion = read_calibration(path)
    cluster = find_cluster("shm+1gbit", measured=links)
    assert (cluster.between.bytes_per_s, cluster.between.agreement_s(4)) == (1e9, 2e-4)
    assert fusion == Fusion(threshold_bytes=0, cycle_s=5e-3)
    path.write_text(json.dumps(content | {"links": {"1gbit": values}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"calibration\.json: damaged: KeyError 'hop_s'"):
        read_calibration(path)
    path.write_text(json.dumps(content | {"kind": "other"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"not a file of hvd_r2n2 calibration; .*--calibrate --json FILE writes one"):
        read_calibration(path)
