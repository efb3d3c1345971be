"""The order of steps, what is tried before, and what happens where memory is short; arms only keep a diary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType

import pytest
import torch

from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.measuring import rounds
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import Done, Ready
from hvd_r2n2.measuring.operations import Operation, Profile
from hvd_r2n2.measuring.rounds import choose_accumulation, measure

CONFIG = load_config(None, ["train.batch_size=8"])
MACHINE = Machine(num_devices=2, threads=1, cores=(0, 1), gpus=())
ARMS = [ArmSpec("a"), ArmSpec("b"), ArmSpec("c")]
STEP_S = {8: 4.0, 4: 2.0, 2: 3.0, 1: 5.0}  # by number of micro-batches
SAVED_OF_A_SAMPLE = 100


class Diary:
    """A team without processes: its steps take as long as `STEP_S` says, and all it does is written down."""

    lines: list[str]

    def __init__(self, arm: ArmSpec, machine: Machine, folder: Path) -> None:
        self.name, self.processes = arm.name, arm.processes

    def prepare(self, arm: ArmSpec, config: Config) -> Ready:
        train = arm.config(config).train
        self.parts, self.micro_batch = train.accumulation, train.batch_size // train.accumulation
        self.lines.append(f"{self.name} prepares {self.parts}")
        return Ready(("cpu:0",), ("a note",))

    def step(self, num_views: int) -> list[Done]:
        self.lines.append(self.name)
        memory = (DeviceMemory(1, 1, 2, self.micro_batch * SAVED_OF_A_SAMPLE),)
        done = Done(0.0, STEP_S[self.parts], 1.0, 0.0, memory, resident_bytes=2000, taken_bytes=1000)
        return [done] * self.processes

    def profile(self, num_views: int) -> Profile:
        self.lines.append(f"{self.name} is profiled")
        return Profile(1.0, 0, (Operation(self.name, "", "linear", 1, 0.5),))

    def release(self) -> None:
        self.lines.append(f"{self.name} releases")

    def __enter__(self) -> Diary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lines.append(f"{self.name} ends")


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Diary, "lines", lines, raising=False)
    monkeypatch.setattr(rounds, "Team", Diary)
    return lines


def set_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(rounds, "available_memory_bytes", lambda: available)


def test_arms_take_turns_in_an_order_that_rotates(diary: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 10**6)
    found = measure(ARMS, CONFIG, MACHINE, num_views=1, rounds=4, warmup=2, report=lambda text: None)
    assert "".join(line for line in diary if len(line) == 1) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert diary[-3:] == ["c ends", "b ends", "a ends"]
    assert not found.is_releasing
    assert [(len(result.steps), result.devices, result.notes) for result in found.results] == [
        (4, ("cpu:0",), ("a note",))
    ] * 3


def test_where_memory_is_short_arms_give_it_back_and_warm_up_again(
    diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 3000)  # just what they have, but nothing is left for anybody else
    found = measure(ARMS, CONFIG, MACHINE, num_views=1, rounds=1, warmup=1, report=lambda text: None)
    assert found.is_releasing
    turns = [line for name in "abc" for line in (name, name, f"{name} releases")]
    assert diary[-3 - len(turns) : -3] == turns
    assert len(found.results[0].steps) == 1


def test_profiles_come_after_all_timed_steps_while_the_others_have_released_their_memory(
    diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 10**6)
    found = measure(ARMS, CONFIG, MACHINE, num_views=1, rounds=1, warmup=2, report=lambda text: None, profiled=True)
    released = [f"{name} releases" for name in "abc"]
    profiled = [line for name in "abc" for line in (name, name, f"{name} is profiled", f"{name} releases")]
    expected = ["a", "b", "c", *released, *profiled, "c ends", "b ends", "a ends"]
    assert diary[-len(expected) :] == expected
    profiles = [result.profile for result in found.results]
    assert [profile and profile.operations[0].name for profile in profiles] == ["a", "b", "c"]
    matrix = ArmSpec("m", kind="matrix")
    beside = measure([matrix, *ARMS], CONFIG, MACHINE, num_views=1, rounds=1, warmup=1, report=print, profiled=True)
    assert "m is profiled" not in diary
    assert [result.profile is None for result in beside.results] == [True, False, False, False]
    unprofiled = measure(ARMS, CONFIG, MACHINE, num_views=1, rounds=1, warmup=1, report=lambda text: None)
    assert [result.profile for result in unprofiled.results] == [None, None, None]


def test_every_timed_step_is_warmed_up_as_often_as_at_first_where_memory_is_short(
    diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 3000)
    measure(ARMS, CONFIG, MACHINE, num_views=1, rounds=1, warmup=2, report=lambda text: None)
    timed = [line for name in "abc" for line in (name, name, name, f"{name} releases")]
    assert diary[-3 - len(timed) : -3] == timed


def test_fastest_number_of_micro_batches_is_chosen(diary: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 10**6)
    chosen, trials = choose_accumulation(ArmSpec("a"), (1, 2, 4, 8), CONFIG, MACHINE, 1, lambda text: None)
    assert chosen == ArmSpec("a", overrides=("train.accumulation=4",))
    assert trials == STEP_S
    assert [line for line in diary if "prepares" in line] == [f"a prepares {count}" for count in (8, 4, 2, 1)]


def test_micro_batches_that_memory_has_no_room_for_are_not_tried(
    diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 400)  # of which 320 may be used: 2 micro-batches of 4 samples would need 404
    said: list[str] = []
    chosen, trials = choose_accumulation(ArmSpec("a"), (1, 2, 4, 8), CONFIG, MACHINE, 1, said.append)
    assert trials.keys() == {8, 4}
    assert chosen.overrides == ("train.accumulation=4",)
    assert said[-1] == "a: fewer micro-batches would need 0.0 GiB, they are left out"


@pytest.mark.parametrize(("gpus", "tried"), [((), {8, 4}), (("0", "1"), {8, 4, 2})])
def test_processes_share_the_memory_of_the_host_and_have_a_gpu_each(
    gpus: tuple[str, ...], tried: set[int], diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 480 may be used. A process needs 204 for 4 micro-batches, 404 for 2, and 804 for 1.
    set_memory(monkeypatch, 600)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=600))
    two = ArmSpec("two", kind="ddp", processes=2)
    _, trials = choose_accumulation(two, (1, 2, 4, 8), CONFIG, replace(MACHINE, gpus=gpus), 1, lambda text: None)
    assert trials.keys() == tried


def test_nothing_is_left_out_after_the_last_number_of_micro_batches(
    diary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 400)  # which 2 micro-batches would exceed, but they were not asked for
    said: list[str] = []
    choose_accumulation(ArmSpec("a"), (4, 8), CONFIG, MACHINE, 1, said.append)
    assert said == ["a: 8 micro-batch(es): 4.000 s a step", "a: 4 micro-batch(es): 2.000 s a step"]
