"""What each process of an arm gets of the machine."""

from __future__ import annotations

import os

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.arms import ArmSpec, split_arms
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.training.placement import place_rank

CONFIG = load_config(None, ["train.cpu_threads=2"])
ON_CPUS = Machine(num_devices=2, threads=2, cores=(4, 5, 8, 9), gpus=())
ON_GPUS = Machine(num_devices=2, threads=1, cores=(0, 1), gpus=("3", "7"))
ARMS = {arm.name: arm for arm in split_arms(CONFIG)}


def test_threads_of_a_rank_are_those_of_all_its_devices() -> None:
    threads = {name: ON_CPUS.settings(arm, CONFIG).train.cpu_threads for name, arm in ARMS.items()}
    assert threads == {"one-device": 2, "bound": 2, "ddp": 2, "naive": 4, "pipeline": 4, "kernel": 4, "spatial": 4}


def test_processes_of_an_arm_share_the_cores_and_one_process_has_all() -> None:
    assert [ON_CPUS.cores_of(ARMS["ddp"], rank) for rank in (0, 1)] == [(4, 5), (8, 9)]
    assert ON_CPUS.cores_of(ARMS["one-device"], 0) == (4, 5, 8, 9)


def test_with_too_few_cores_nobody_is_bound() -> None:
    machine = Machine(num_devices=2, threads=2, cores=(0, 1), gpus=())
    assert [machine.cores_of(ARMS["bound"], rank) for rank in (0, 1)] == [(0, 1), (0, 1)]


def test_each_of_several_processes_sees_a_gpu_of_its_own() -> None:
    def seen(arm: ArmSpec, rank: int | None) -> str | None:
        return ON_GPUS.environment(arm, rank).get("CUDA_VISIBLE_DEVICES")

    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert [seen(ARMS["ddp"], rank) for rank in (0, 1)] == ["3", "7"]
    assert seen(ARMS["pipeline"], 0) == before
    assert ON_GPUS.settings(ARMS["ddp"], CONFIG).train.device == "cuda"


def test_ranks_that_would_share_a_gpu_are_left_out() -> None:
    single = Machine(num_devices=2, threads=1, cores=(0, 1), gpus=("0",))
    assert single.why_not(ARMS["ddp"]) == "2 ranks need 2 GPUs, 1 seen"
    assert [single.why_not(ARMS[name]) for name in ("one-device", "bound", "pipeline")] == [None, None, None]
    assert ON_GPUS.why_not(ARMS["ddp"]) is None


def test_machine_without_gpus_uses_its_cores() -> None:
    machine = Machine.find(load_config(None, ["train.device=cpu", "train.cpu_threads=1"]))
    assert (machine.num_devices, machine.threads, machine.gpus, machine.device_type) == (2, 1, (), "cpu")
    assert set(machine.cores) <= os.sched_getaffinity(0)
    assert len(machine.cores) <= 2


def test_one_device_has_all_cores_unless_told_otherwise() -> None:
    config = load_config(None, ["train.device=cpu"])
    machine = Machine.find(config, num_devices=1)
    assert (machine.threads, set(machine.cores)) == (len(machine.cores), os.sched_getaffinity(0))
    own = Machine.find(load_config(None, ["train.device=cpu", "train.cpu_threads=1"]), num_devices=1)
    assert (own.threads, len(own.cores)) == (1, 1)
    assert own.settings(ArmSpec("plain"), config).train.cpu_threads == 1


@pytest.mark.parametrize(
    ("split", "threads"),
    [
        ((), 4),
        (("split.strategy=kernel",), 2),
        (("split.strategy=pipeline", "split.devices=[cpu:0,cpu:1,cpu:2]"), 1),
        (("split.strategy=pipeline", "split.devices=[cpu:0,cpu:1,cpu:2,cpu:3,cpu:4]"), 1),
    ],
)
def test_devices_share_the_threads_of_a_rank_as_in_training(split: tuple[str, ...], threads: int) -> None:
    config = load_config(None, ["train.device=cpu", "train.cpu_threads=4", *split])
    assert Machine.find(config).threads == threads
    before = torch.get_num_threads()
    try:
        assert place_rank(config, Alone(), lambda text: None).threads_per_device == threads
    finally:
        torch.set_num_threads(before)


def test_missing_gpus_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"train\.device=cuda: no GPU is seen here \(use train\.device=cpu\)"):
        Machine.find(load_config(None, ["train.device=cuda"]))
