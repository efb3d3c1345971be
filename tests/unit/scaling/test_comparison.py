"""Rows of the comparison, numbers of ranks, and files of costs."""

import json
from dataclasses import replace
from math import ceil, log2
from pathlib import Path

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.scaling.allreduce import flat_ring_s
from hvd_r2n2.scaling.comparison import (
    MIXTURE,
    PLAIN,
    SPLIT,
    Conditions,
    Storage,
    compare,
    parse_ranks,
    predict_row,
)
from hvd_r2n2.scaling.links import find_cluster
from hvd_r2n2.scaling.overlap import Layer
from hvd_r2n2.scaling.workload import Profile, Workload, read_workload, write_workload
from hvd_r2n2.training.step import share_of_batch

LAYERS = (Layer("first", 0.1, 0.2, (1000,)), Layer("last", 0.3, 0.4, (2000, 500)))
WORKLOAD = Workload(
    name="hand",
    source="by hand",
    profiles=(Profile(8, LAYERS),),
    batch_size=8,
    steps=3600,
    images_per_sample=3.0,
    bytes_per_image=100.0,
    split_speedups={8: 1.6},
)
CONDITIONS = Conditions(find_cluster("nvlink4+ndr"), price=2.0)


def test_one_device_is_its_own_measure() -> None:
    row = predict_row(WORKLOAD, CONDITIONS, "strong", PLAIN, 1)
    assert row.step.step_s == pytest.approx(1.0)
    assert row.images_per_s == pytest.approx(24.0)
    assert row.efficiency == pytest.approx(1.0)
    assert row.device_hours == pytest.approx(1.0)
    assert row.cost == pytest.approx(2.0)


def test_a_split_rank_gains_what_it_is_said_to() -> None:
    row = predict_row(WORKLOAD, CONDITIONS, "strong", SPLIT, 2)
    assert row.ranks == 1
    assert row.step.step_s == pytest.approx(1 / 1.6)
    assert row.efficiency == pytest.approx(0.8)


@pytest.mark.parametrize("devices", [8, 4096])
def test_a_mixture_sends_over_the_nodes_that_its_devices_are_on(devices: int) -> None:
    # 4 devices on their own and 2 split ranks a node: 6 ranks, between the 4 split ones and the 8 of one device. The
    # split ranks, which gain nothing, set the pace.
    workload = replace(WORKLOAD, split_speedups={8: 1.0})
    plain, split, mixture = (
        predict_row(workload, replace(CONDITIONS, algorithm="ring"), "weak", arrangement, devices)
        for arrangement in (PLAIN, SPLIT, MIXTURE)
    )
    assert (plain.nodes, split.nodes, mixture.nodes) == (devices // 8,) * 3
    assert (plain.ranks, split.ranks, mixture.ranks) == (devices, devices // 2, devices // 4 * 3)
    assert split.step.communication_s < mixture.step.communication_s < plain.step.communication_s
    cluster, ranks = CONDITIONS.cluster, devices // 4 * 3
    link = cluster.inside if devices == 8 else cluster.between
    sent_s = sum(link.call_s + flat_ring_s(cluster, ranks, devices // 8, size) for size in (2500, 1000))
    agreed_s = 2 * 2 * ceil(log2(ranks)) * link.latency_s  # before each of the two, up a tree and down
    assert mixture.step.communication_s == pytest.approx(sent_s + agreed_s)


def test_split_ranks_have_all_their_devices_on_one_node() -> None:
    rows, left_out = compare(WORKLOAD, Conditions(find_cluster("nvlink4+ndr", 3)), (2, 8))
    assert {(row.arrangement, row.devices) for row in rows} == {(PLAIN, 2), (PLAIN, 8), (SPLIT, 2)}
    reason = "3 device(s) a node are no whole number of ranks with 2 each"
    assert left_out[f"strong, {SPLIT}, 8 device(s)"] == left_out[f"weak, {MIXTURE}, 8 device(s)"] == reason


def test_no_row_is_more_efficient_than_one_device_and_weak_steps_grow() -> None:
    rows, left_out = compare(WORKLOAD, Conditions(find_cluster("nvlink4+ndr"), spread=0.02), parse_ranks("1..4096"))
    assert all(row.efficiency <= 1 + 1e-9 for row in rows)
    assert all(row.step.exposed_s <= row.step.communication_s + 0.01 for row in rows)
    weak = [row.step.step_s for row in rows if (row.mode, row.arrangement) == ("weak", PLAIN)]
    assert weak == sorted(weak)
    assert len(weak) == 13
    assert "8 samples cannot be shared out over 16 ranks" in left_out[f"strong, {PLAIN}, 16 device(s)"]


def is_possible(batch_size: int, num_ranks: int, accumulation: int) -> bool:
    given = (f"train.batch_size={batch_size}", f"train.accumulation={accumulation}")
    try:
        share_of_batch(load_config(None, given), num_ranks)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_rows_are_even_where_training_can_share_the_batch_out(accumulation: int) -> None:
    workload = replace(WORKLOAD, accumulation=accumulation)
    rows, _ = compare(workload, CONDITIONS, (1, 2, 3, 4, 5, 6, 8))
    for row in rows:
        if row.arrangement != MIXTURE:
            assert row.is_even == is_possible(row.samples, row.ranks, accumulation), row
    assert {row.is_even for row in rows} == {True, False}


def test_a_slow_file_system_sets_the_pace() -> None:
    slow = Conditions(find_cluster("nvlink4+ndr"), storage=Storage(shared_bytes_per_s=800.0))
    row = predict_row(WORKLOAD, slow, "weak", PLAIN, 4)
    assert row.step.step_s == pytest.approx(4 * 24 * 100 / 800)
    assert row.step.waiting_for_input_s > 0


def test_numbers_of_ranks() -> None:
    assert parse_ranks("1..4096") == tuple(2**power for power in range(13))
    assert parse_ranks("1..6") == (1, 2, 4, 6)
    assert parse_ranks("36,2,2") == (2, 36)
    for text in ("0..4", "4..1", "many", "1..", "2097152"):
        with pytest.raises(ValueError, match=r"--ranks .*write 1\.\.4096"):
            parse_ranks(text)


def test_costs_come_back_from_their_file(tmp_path: Path) -> None:
    write_workload(tmp_path / "costs.json", WORKLOAD, {"command": "by hand"})
    assert read_workload(tmp_path / "costs.json") == WORKLOAD


def test_files_that_are_not_costs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"costs\.json: not a file of hvd_r2n2 step costs"):
        read_workload(path)
    write_workload(path, WORKLOAD, {})
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"version": 99}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"version 99 .*this is version 2"):
        read_workload(path)
    broken = {"workload": content["workload"] | {"cuda_graphs": "false"}}
    path.write_text(json.dumps(content | broken), encoding="utf-8")
    with pytest.raises(ValueError, match=r"costs\.json: cuda_graphs: 'false' is neither true nor false"):
        read_workload(path)
    content["workload"]["profiles"][0]["layers"][0]["forward_s"] = -1
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"costs\.json: forward_s: -1 is not a number"):
        read_workload(path)
