"""Costs and the play of a program: against hand-computed schedules, and against what a real step holds and moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hvd_r2n2.common.memory import MemoryCounter
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split import Plan, SplitNetwork, SplitOptions, TaskTime
from hvd_r2n2.split.costs import Costs, Machine, Part, PartCosts, Point, TensorSize, measured_parts, tensor_sizes
from hvd_r2n2.split.kernel import kernel_program
from hvd_r2n2.split.pipeline import pipeline_program
from hvd_r2n2.split.program import Kind, Program, Task, spread
from hvd_r2n2.split.rehearsal import Rehearsal, Take, on_one_device, unit_program
from hvd_r2n2.split.simulation import bubble_share, busy_shares, simulate, slowdown
from hvd_r2n2.split.worker import Worker
from tests.split.lists import expected_times, own, stage
from tests.split.networks import reconstruction, reconstruction_inputs
from tests.split.toys import Toy

KINDS: tuple[Kind, ...] = ("forward", "backward")

CPU = torch.device("cpu")


def chain(num_stages: int) -> tuple[Stage, ...]:
    """Stages a0, a1, … one after another, and a loss."""
    names = ["x", *(f"a{number}" for number in range(num_stages))]
    stages = [stage(after, [f"{before}:BF"], [f"{after}:BF"]) for before, after in pairwise(names)]
    return (*stages, stage("loss", [f"{names[-1]}:BF", "labels:B"], ["loss:"]))


def costs_of(
    stages: Sequence[Stage], points: Mapping[str, tuple[float, ...]], machine: Machine | None = None, **other: bool
) -> Costs:
    """Costs in proportion to samples: by stage, forward and backward seconds, saved and shared bytes of one sample."""
    parts = {Part((name,)): PartCosts((Point(1, *(*values, 0.0, 0.0)[:4]),)) for name, values in points.items()}
    views = {stage.name: stage.views for stage in stages}
    tensors = {tensor.name: TensorSize({"F": 10}, 4) for stage in stages for tensor in stage.outputs}
    return Costs(parts, views, tensors, machine or Machine(), **other)


def even_chain(num_devices: int, micro_batches: int, schedule: str, backward_s: float) -> tuple[Program, Costs]:
    """A stage a device, each with a second forward; a loss that takes no time."""
    stages = chain(num_devices)
    cut = [f"a{number}" for number in range(1, num_devices)]
    program = pipeline_program(stages, num_devices, [1] * micro_batches, (1,), cut, schedule=schedule)
    points = {f"a{number}": (1.0, backward_s) for number in range(num_devices)} | {"loss": (0.0, 0.0)}
    return program, costs_of(stages, points)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batches", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("schedule", ["1f1b", "fill-drain"])
def test_bubble_of_an_even_pipeline_is_that_of_the_papers(num_devices: int, micro_batches: int, schedule: str) -> None:
    played = simulate(*even_chain(num_devices, micro_batches, schedule, backward_s=2.0))
    bubble = Fraction(num_devices - 1, micro_batches + num_devices - 1)
    assert played.seconds == pytest.approx(3 * (micro_batches + num_devices - 1))
    assert bubble_share(played.tasks, num_devices) == pytest.approx(float(bubble))
    assert busy_shares(played.tasks, num_devices) == pytest.approx([float(1 - bubble)] * num_devices)


def test_a_schedule_by_hand() -> None:
    """Two micro-batches of 2 and 1 samples; device 1 takes twice as long; a second from one device to the other.

    device 0   F0 F0 F1 .  .  .  .  .  .  .  .  .  .  B0 B0 .  ...
    device 1   .  .  .  F0 F0 F0 F0 B0 B0 B0 B0 F1 F1 B1 B1
    """
    stages = chain(2)
    program = pipeline_program(stages, 2, (2, 1), (1,), ["a1"], schedule="1f1b")
    orders = (
        tuple(Task(n, kind) for kind in KINDS for n in (0, 2)),
        tuple(Task(n, kind) for n in (1, 3) for kind in KINDS),
    )
    costs = costs_of(stages, {"a0": (1, 1), "a1": (2, 2), "loss": (0, 0)}, Machine(handover_s=1.0))
    tasks = simulate(replace(program, orders=orders), costs).tasks
    found = [(t.label, t.kind, t.start_s, t.end_s) for t in sorted(tasks, key=lambda t: (t.device, t.start_s))]
    assert found == [
        ("a0 m0", "forward", 0, 2),
        ("a0 m1", "forward", 2, 3),
        ("a0 m0", "backward", 12, 14),
        ("a0 m1", "backward", 16, 17),
        ("a1…loss m0", "forward", 3, 7),
        ("a1…loss m0", "backward", 7, 11),
        ("a1…loss m1", "forward", 11, 13),
        ("a1…loss m1", "backward", 13, 15),
    ]


def test_equal_halves_of_kernels_leave_no_bubble() -> None:
    toy = Toy(2, 2, 4, seed=0)
    stages = toy.stages()
    program = kernel_program(stages, 2, (3, 2), 2)
    parts = {
        Part((one.name,), "channels", part, 2): PartCosts((Point(1, 1 + n, 2 + n, 0, 0),))
        for n, one in enumerate(stages[:-1])
        for part in range(2)
    }
    parts[Part(("loss",))] = PartCosts((Point(1, 0, 0, 0, 0),))
    played = simulate(program, Costs(parts, {one.name: one.views for one in stages}, _sizes_of(toy)))
    assert bubble_share(played.tasks, 2) == pytest.approx(0)
    # 2 views of the layers before and of the unit; 5 samples.
    by_hand = 5 * (2 * (1 + 2 + 2 + 3) + 2 * (3 + 4 + 4 + 5) + (5 + 6 + 6 + 7))
    assert played.seconds == pytest.approx(by_hand)


def _sizes_of(toy: Toy) -> dict[str, TensorSize]:
    return {t.name: TensorSize({"F": toy.width}, 8) for one in toy.stages() for t in one.outputs}


@pytest.mark.parametrize(("others", "expected"), [(0, 10.0), (1, 12.5), (2, 15.0)])
def test_work_is_slower_while_others_work(others: int, expected: float) -> None:
    """Three devices with separate work: one of them alone, two, or all of them for ten seconds each."""
    stages = chain(1)
    program = unit_program(stages, (1, 1, 1), 1)
    calls = []
    for call in program.calls:
        device = call.micro_batch
        piece = replace(call.piece, name=f"{call.piece.name}@{device}", device=device)
        calls.append(replace(call, piece=piece))
    lengths = [10.0 if device <= others else 0.0 for device in range(3)]
    orders = tuple(
        tuple(Task(n, kind) for kind in KINDS for n in _numbers(program, device, kind)) for device in range(3)
    )
    program = replace(program, num_devices=3, calls=tuple(calls), orders=orders, micro_batches=(1, 2, 3))
    line = (Point(0.5, 0, 0, 0, 0), *(Point(n + 1, length, 0, 0, 0) for n, length in enumerate(lengths)))
    parts = {Part(("a0",)): PartCosts(line), Part(("loss",)): PartCosts((Point(1, 0, 0, 0, 0),))}
    machine = Machine(slowdowns={"pipeline": 1.5})
    costs = Costs(parts, {"a0": "none", "loss": "none"}, {"a0": TensorSize({"F": 1}, 4)}, machine)
    assert simulate(program, costs).seconds == pytest.approx(expected)


def _numbers(program: Program, device: int, kind: Kind) -> list[int]:
    numbers = [number for number, call in enumerate(program.calls) if call.micro_batch == device]
    return numbers[::-1] if kind == "backward" else numbers


def test_slowdown_is_found_again_in_the_spans_of_a_play() -> None:
    program, costs = even_chain(2, 8, "1f1b", backward_s=2.0)
    slow = replace(costs, machine=Machine(slowdowns={"pipeline": 1.2}))
    tasks = simulate(program, slow).tasks
    spans = [[(t.start_s, t.end_s) for t in tasks if t.device == device] for device in range(2)]
    assert slowdown(spans, alone_s=48.0) == pytest.approx(1.2, rel=0.01)
    assert slowdown(spans, alone_s=100.0) == 1.0
    assert slowdown([[(0.0, 1.0)], [(1.0, 2.0)]], alone_s=1.0) == 1.0, "never at once: nothing can be said"


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    num_views=st.integers(1, 3),
    chunked=st.booleans(),
    schedule=st.sampled_from(["1f1b", "fill-drain"]),
    seconds=st.lists(st.integers(1, 9), min_size=9, max_size=9),
)
def test_a_play_without_delays_is_the_drawings(
    sizes: list[int], num_views: int, chunked: bool, schedule: str, seconds: list[int]
) -> None:
    stages = Toy(2, 2, 2, seed=0).stages()
    chunks = spread(num_views, num_views if chunked else 1)
    program = pipeline_program(stages, 2, sizes, chunks, ["none0"], schedule=schedule, views_in_chunks=chunked)
    units = [("each0",), ("each1",), ("unit.gate", "unit.candidate"), ("none0",), ("none1",), ("loss",)]
    parts = {Part(unit): PartCosts((Point(1, s, 2 * s, 0, 0),)) for unit, s in zip(units, seconds, strict=False)}
    sizes_of = {t.name: TensorSize({"F": 2}, 8) for one in stages for t in one.outputs}
    costs = Costs(parts, {one.name: one.views for one in stages}, sizes_of)
    expected = expected_times(program, lambda task: costs.of(program, task).seconds)
    assert sorted(simulate(program, costs).tasks, key=_place) == sorted(expected, key=_place)


def _place(task: TaskTime) -> tuple[int, float, str]:
    return task.device, task.start_s, task.label


def test_memory_peaks_by_hand() -> None:
    """4 micro-batches of 1 sample; fill-drain holds all of them, 1F1B at most three on the first device."""
    for schedule, on_first, on_second in (("fill-drain", 4, 4), ("1f1b", 3, 1)):
        stages = chain(2)
        program = pipeline_program(stages, 2, [1] * 4, (1,), ["a1"], schedule=schedule)
        costs = costs_of(stages, {"a0": (1, 1, 100, 7), "a1": (1, 1, 30, 5), "loss": (0, 0, 2, 1)})
        # What a device shares with calls before is its own where those are another device's (or there are none).
        peaks = simulate(program, costs).saved_bytes
        assert peaks[0] == on_first * (100 + 7)
        assert peaks[1] == on_second * (30 + 5 + 2)


def test_recomputing_keeps_inputs_and_runs_forward_again() -> None:
    stages = chain(2)
    program = pipeline_program(stages, 2, [2, 2], (1,), ["a1"], schedule="fill-drain")
    costs = costs_of(stages, {"a0": (1, 2, 100), "a1": (1, 2, 30), "loss": (0, 0, 0)}, recompute=True)
    played = simulate(program, costs)
    # a1 keeps its input, 2 samples of 10 numbers of 4 bytes, twice; while it goes back, what a micro-batch saves too.
    assert played.saved_bytes == (200.0, 2 * 80.0 + 60.0)
    assert sum(t.end_s - t.start_s for t in played.tasks) == 2 * (2 * (1 + 2 + 1) * 2)


def test_costs_between_and_beyond_what_was_measured() -> None:
    costs = PartCosts((Point(2, 3, 30, 300, 0), Point(4, 5, 40, 600, 0)))
    assert costs.at(3) == Point(3, 4, 35, 450, 0)
    assert costs.at(8) == Point(8, 10, 80, 1200, 0), "in proportion"
    assert costs.at(1) == Point(1, 2, 25, 150, 0), "on the line: some of it does not depend on work"
    steep = PartCosts((Point(2, 1, 1, 0, 0), Point(4, 9, 9, 0, 0)))
    assert steep.at(1) == Point(1, 0.5, 0.5, 0, 0), "not less than in proportion"


def test_what_is_done_once_a_step_is_found_in_the_last_micro_batch() -> None:
    stages = chain(1)
    program = unit_program(stages, (1, 2, 1), 1)
    takes = {
        number: Take(call.micro_batch + 1.0, 10.0 * (call.micro_batch + 1), 5, 0)
        for number, call in enumerate(program.calls)
    }
    parts = measured_parts(program, stages, takes)
    assert parts[Part(("a0",))] == PartCosts((Point(1, 1, 10, 5, 0), Point(2, 2, 20, 5, 0)), last_s=20.0)
    costs = Costs(parts, {"a0": "none", "loss": "none"}, {"a0": TensorSize({"F": 1}, 4)})
    step = unit_program(stages, (1, 1), 1)
    backward = [simulate(step, costs).tasks[n] for n in range(8)]
    lengths = {t.label: t.end_s - t.start_s for t in backward if t.kind == "backward"}
    assert lengths == {"a0 m0": 10, "loss m0": 10, "a0 m1": 30, "loss m1": 30}


def rehearsed(model: nn.Module, stages: tuple[Stage, ...], program: Program, inputs: Mapping[str, Tensor]) -> Costs:
    """Costs of which only bytes are known."""
    with Worker(0, CPU, 1) as worker:
        rehearsal = Rehearsal(model, stages, program, inputs, worker, SplitOptions())
        rehearsal.run()
        rehearsal.run()
    return Costs(
        measured_parts(program, stages, rehearsal.takes()),
        {stage.name: stage.views for stage in stages},
        tensor_sizes(program, stages, rehearsal.outputs),
    )


PLANS = {
    "pipeline": (Plan("pipeline", 2, ("decoder.block7",), schedule="1f1b"), 2),
    "pipeline without bubbles": (Plan("pipeline", 2, ("decoder.block7",), schedule="zero-bubble"), 2),
    "pipeline inside the encoder": (Plan("pipeline", (2, 2), ("encoder.block3",), schedule="fill-drain"), 2),
    "kernel": (Plan("kernel", 2), 2),
    "spatial": (Plan("spatial", 2), 2),
    "spatial, views cut": (Plan("spatial", 4), 2),
    "spatial, the first micro-batch not cut": (Plan("spatial", (1, 3)), 1),
}


@pytest.mark.parametrize("name", PLANS)
def test_bytes_are_those_of_a_real_step(name: str) -> None:
    model, stages = reconstruction("3d-gru-1")
    plan, num_views = PLANS[name]
    inputs = reconstruction_inputs(num_views, 4)
    if plan.strategy == "pipeline":
        costs = rehearsed(model, stages, unit_program(stages, (2, 2), 2), inputs)
        apart = rehearsed(model, stages, unit_program(stages, (2, 2), 2, weights_later=True), inputs)
        costs = replace(costs, parts={**costs.parts, **apart.parts})
    else:
        costs = rehearsed(model, stages, plan.program(stages, 2, 4, num_views), inputs)
    assert all(parameter.grad is None for parameter in model.parameters()), "a rehearsal leaves no gradients"
    # Inputs of the network are there whether a step runs or not.
    counters = [MemoryCounter([*model.parameters(), *inputs.values()]) for _ in range(2)]
    with SplitNetwork(model, stages, plan, [CPU, CPU], options=SplitOptions(counters=counters)) as split:
        leaves = [leaf for shard in split.shards for device in range(2) for leaf in shard.leaves_on(device)]
        for counter in counters:
            counter.leave_out(leaves)
        result = split.gradients(inputs)
    played = simulate(plan.program(stages, 2, 4, num_views), costs)
    assert played.bytes_moved == result.bytes_moved
    # Costs of a view are a mean: the first one, without a state, is a little cheaper.
    assert played.saved_bytes == pytest.approx([counter.peak_bytes for counter in counters], rel=1e-3)


def test_a_rehearsal_has_the_calls_of_all_devices_on_one() -> None:
    stages = (stage("a", ["x:BCH"], ["a:BCH"]), stage("b", ["a:BCH", own("a:BCH")], ["b:BCH"]), chain(1)[-1])
    stages = (*stages[:-1], stage("loss", ["b:BCH"], ["loss:"]))
    program = kernel_program(stages, 2, (2, 1), 1)
    alone = on_one_device(program)
    alone.check()
    assert [call.outputs for call in alone.calls] == [call.outputs for call in program.calls]
    assert {call.piece.device for call in alone.calls} == {0}
    assert len(alone.orders) == 1


def test_units_keep_the_recurrent_unit_together() -> None:
    program = unit_program(Toy(2, 1, 2, seed=0).stages(), (2, 1), 3)
    names = [call.piece.stages for call in program.calls if call.micro_batch == 0]
    assert names == [("each0",), ("each1",), ("unit.gate", "unit.candidate"), ("none0",), ("loss",)]


def test_an_unknown_slowdown_is_the_mean_of_those_known() -> None:
    assert Machine().slowdown("kernel") == 1
    machine = Machine(slowdowns={"kernel": 1.2, "spatial": 1.1})
    assert machine.slowdown("kernel") == 1.2
    assert machine.slowdown("pipeline") == pytest.approx(1.15)
