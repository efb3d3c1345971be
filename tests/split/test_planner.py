"""The planner: which candidates there are, and that the best is found where arithmetic says which it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from torch import nn

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split import Plan
from hvd_r2n2.split.costs import Costs, Machine, Part, PartCosts, Point, TensorSize
from hvd_r2n2.split.planner import (
    DATA_PARALLEL,
    ONE_DEVICE,
    Job,
    Wanted,
    balanced_cuts,
    data_parallel_program,
    micro_batch_choices,
    predict,
    rank,
)
from tests.split.lists import stage
from tests.split.toys import Dense, MeanSquare, Toy

WIDTH = 4
LAYER_BYTES = (WIDTH * WIDTH + WIDTH) * 8
"""Of a toy's layer: weight and bias in float64."""


class Chain(nn.Module):
    """Layers one after another, none of which has views."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Dense(WIDTH, WIDTH) for _ in range(num_layers)).double()

    def stages(self) -> tuple[Stage, ...]:
        names = ["x", *(f"a{number}" for number in range(len(self.layers)))]
        stages = [
            stage(after, [f"{before}:BF"], [f"{after}:BF"], layer)
            for before, after, layer in zip(names, names[1:], self.layers, strict=False)
        ]
        return (*stages, stage("loss", [f"{names[-1]}:BF", "target:BF"], ["loss:"], MeanSquare()))


def costs_of(
    stages: tuple[Stage, ...],
    seconds: Mapping[str, float],
    *,
    fixed_s: float = 0.0,
    split_s: float = 0.5,
    machine: Machine | None = None,
) -> Costs:
    """Costs by stage: forward seconds a sample, as many backward, `fixed_s` besides; 100 bytes a sample are saved.

    A half of the kernels costs `split_s` of the whole.
    """

    def line(name: str, factor: float, saved_bytes: float) -> PartCosts:
        points = []
        for work in (1, 64):
            time_s = factor * (fixed_s + work * seconds.get(name, 0.0))
            points.append(Point(work, time_s, time_s, work * saved_bytes, 0.0))
        return PartCosts(tuple(points))

    parts = {Part((one.name,)): line(one.name, 1, 100) for one in stages[:-1]}
    parts |= {Part((one.name,), "channels", n, 2): line(one.name, split_s, 50) for one in stages[:-1] for n in range(2)}
    parts[Part(("loss",))] = PartCosts((Point(1, 0, 0, 0, 0),))
    sizes = {tensor.name: TensorSize({"F": WIDTH}, 8) for one in stages for tensor in one.outputs}
    return Costs(parts, {one.name: one.views for one in stages}, sizes, machine or Machine())


def job_of(model: Chain, num_samples: int, num_devices: int = 2) -> Job:
    return Job(model, model.stages(), num_devices, num_samples)


def test_one_device_by_arithmetic() -> None:
    model = Chain(3)
    costs = costs_of(model.stages(), {"a0": 1, "a1": 2, "a2": 3}, fixed_s=0.5)
    best = rank(job_of(model, 8), costs).best(ONE_DEVICE)
    assert best is not None
    assert best.micro_batches == (8,), "more micro-batches only repeat what is fixed"
    assert best.step_s == pytest.approx(2 * (8 * 6 + 3 * 0.5))
    assert best.memory[0].saved == 8 * 3 * 100
    assert best.memory[0].weights == best.memory[0].gradients == 3 * LAYER_BYTES


def test_kernels_win_where_halves_take_half() -> None:
    model = Chain(3)
    machine = Machine(exchange_s_per_byte=1e-3)
    ranking = rank(job_of(model, 8), costs_of(model.stages(), {"a0": 1, "a1": 2, "a2": 3}, machine=machine))
    assert ranking.choice.plan == Plan("kernel", 1)
    assert ranking.choice.step_s == pytest.approx(8 * 6)
    assert ranking.choice.bubble == pytest.approx(0)
    assert ranking.choice.bytes_moved == 2 * 2 * 2 * 8 * WIDTH / 2 * 8 + 2 * 8 * WIDTH / 2 * 8
    parallel = ranking.best(DATA_PARALLEL)
    assert parallel is not None
    assert parallel.step_s == pytest.approx(8 * 6 + 3 * LAYER_BYTES * 1e-3), "all gradients are exchanged"
    assert parallel.memory[0].saved == parallel.memory[1].saved == 4 * 3 * 100


def test_a_pipeline_wins_where_halves_take_nearly_all() -> None:
    """Layers of 1 2 3 seconds: cut before the last. 8 micro-batches of a sample: (8 + 1) · 2 · 3 s."""
    model = Chain(3)
    machine = Machine(exchange_s_per_byte=1.0)
    costs = costs_of(model.stages(), {"a0": 1, "a1": 2, "a2": 3}, split_s=0.9, machine=machine)
    ranking = rank(job_of(model, 8), costs)
    assert ranking.choice.plan is not None
    assert (ranking.choice.plan.strategy, ranking.choice.plan.cut) == ("pipeline", ("a2",))
    assert ranking.choice.plan.micro_batches == 8
    assert ranking.choice.step_s == pytest.approx(2 * 3 * 9)
    assert ranking.choice.bubble == pytest.approx(1 / 9)
    assert [device.weights for device in ranking.choice.memory] == [2 * LAYER_BYTES, LAYER_BYTES]


def test_what_a_micro_batch_costs_anyway_limits_their_number() -> None:
    model = Chain(2)
    costs = costs_of(model.stages(), {"a0": 1, "a1": 1}, fixed_s=4.0, split_s=0.9)
    found = [p for p in rank(job_of(model, 16), costs).predictions if p.name == "pipeline" and p.plan is not None]
    by_count = {len(p.micro_batches): p.step_s for p in found if isinstance(p.plan, Plan) and p.plan.schedule == "1f1b"}
    # M equal micro-batches: (M + 1) times forward and backward of one, each 4 s and a second a sample.
    for count in (1, 2, 4, 8, 16):
        even = predict(job_of(model, 16), costs, Plan("pipeline", count, ("a1",), schedule="1f1b"))
        assert even.step_s == pytest.approx((count + 1) * 2 * (4 + 16 / count))
    assert len(found[0].micro_batches) == 2
    assert by_count[2] == pytest.approx(72)


def test_uneven_micro_batches_shorten_the_ends() -> None:
    model = Chain(2)
    costs = costs_of(model.stages(), {"a0": 1, "a1": 1})
    job = job_of(model, 16)
    even = predict(job, costs, Plan("pipeline", 4, ("a1",), schedule="1f1b"))
    uneven = predict(job, costs, Plan("pipeline", (1, 3, 4, 4, 3, 1), ("a1",), schedule="1f1b"))
    assert even.step_s == pytest.approx(2 * 16 + 2 * 4)
    assert uneven.step_s < even.step_s


def test_memory_decides_where_not_all_fits() -> None:
    model = Chain(2)
    tight = costs_of(model.stages(), {"a0": 1, "a1": 1}, machine=Machine(memory_bytes=1000))
    ranking = rank(job_of(model, 8), tight)
    fixed = LAYER_BYTES * 2  # half of the weights on each device, and their gradients
    assert ranking.choice.fits
    assert ranking.choice.plan == Plan("kernel", 2), "4 samples at a time: 320 + 400 bytes"
    assert ranking.choice.peak_bytes == fixed + 4 * 2 * 50
    assert [p.fits for p in ranking.predictions] == sorted((p.fits for p in ranking.predictions), reverse=True)
    together = replace(tight, machine=Machine(memory_bytes=1000, memory_is_shared=True))
    assert rank(job_of(model, 8), together).choice.plan == Plan("kernel", 8), "each device's 320 and 100 bytes"
    hopeless = rank(job_of(model, 8), replace(tight, machine=Machine(memory_bytes=10)))
    assert not hopeless.choice.fits
    assert hopeless.choice.peak_bytes == min(p.peak_bytes for p in hopeless.predictions)


def test_the_optimizer_and_accumulation_count() -> None:
    model = Chain(2)
    machine = Machine(norm_s_per_byte=0.5, update_s_per_byte=1.0, state_bytes_per_byte=2.0)
    job = replace(job_of(model, 4), accumulation=3)
    found = predict(job, costs_of(model.stages(), {"a0": 1, "a1": 1}, machine=machine), Plan("kernel"))
    # 3 times forward and backward; the norm over all weights, then each device moves its half.
    assert found.step_s == pytest.approx(3 * 2 * 4 + 0.5 * 2 * LAYER_BYTES + 1.0 * LAYER_BYTES)
    assert [device.optimizer for device in found.memory] == [2 * LAYER_BYTES] * 2


def test_time_is_the_mean_over_numbers_of_views() -> None:
    toy = Toy(1, 1, WIDTH, seed=0)
    stages = toy.stages()
    line = (Point(1, 1.0, 2.0, 0, 0),)
    units = [("each0",), ("unit.gate", "unit.candidate"), ("none0",), ("loss",)]
    views = {one.name: one.views for one in stages}
    sizes = {tensor.name: TensorSize({"F": WIDTH}, 8) for one in stages for tensor in one.outputs}
    costs = Costs({Part(unit): PartCosts(line) for unit in units}, views, sizes)
    ranking = rank(Job(toy, stages, 2, 1, (1, 2, 3)), costs, Wanted(("pipeline",)))
    alone = ranking.best(ONE_DEVICE)
    assert alone is not None
    # Each layer before the unit, and the unit, once a view; two stages after it once.
    assert alone.step_s == pytest.approx(3 * (2 * 2 + 2))


def test_cuts_are_balanced() -> None:
    model = Chain(6)
    even = costs_of(model.stages(), {f"a{number}": 1.0 for number in range(6)})
    assert balanced_cuts(job_of(model, 4), even)[0] == ("a3",)
    assert balanced_cuts(job_of(model, 4, num_devices=3), even)[0] == ("a2", "a4")
    front = costs_of(model.stages(), {"a0": 9.0, "a1": 1.0, "a2": 1.0})
    assert balanced_cuts(job_of(model, 4), front)[0] == ("a1",)
    # 5 and 7 against 6 and 6: within a quarter of the best; 4 and 8 are not.
    assert set(balanced_cuts(job_of(Chain(12), 1), costs_of(Chain(12).stages(), {f"a{n}": 1 for n in range(12)}))) == {
        ("a5",),
        ("a6",),
        ("a7",),
    }


def test_a_pipeline_over_more_devices_than_pieces_is_refused() -> None:
    model = Chain(1)
    message = r"pipeline over 3 devices: the network can only be cut into 2 pieces \(use at most 2 devices\)"
    with pytest.raises(ValueError, match=message):
        rank(job_of(model, 4, num_devices=3), costs_of(model.stages(), {"a0": 1.0}), Wanted(("pipeline",)))


def test_what_is_not_possible_is_said() -> None:
    model = Chain(2)
    ranking = rank(job_of(model, 4), costs_of(model.stages(), {"a0": 1.0, "a1": 1.0}))
    assert ranking.impossible.keys() == {"spatial"}
    assert "has no volume" in ranking.impossible["spatial"]


def test_one_device_has_nothing_to_share() -> None:
    model = Chain(2)
    job, costs = job_of(model, 4, num_devices=1), costs_of(model.stages(), {"a0": 1.0, "a1": 1.0})
    ranking = rank(job, costs)
    assert ranking.impossible.keys() == {"kernel", "spatial"}
    assert {one.name for one in ranking.predictions} == {ONE_DEVICE, "pipeline"}
    message = r"^kernel split over 1 device: there is nothing to share \(use 2 devices or more\)$"
    with pytest.raises(ValueError, match=message):
        rank(job, costs, Wanted(("kernel",)))


def test_wishes_are_kept() -> None:
    model = Chain(4)
    costs = costs_of(model.stages(), {f"a{number}": 1.0 for number in range(4)})
    wanted = Wanted(("pipeline",), cut=("a1",), micro_batches=(1, 3), view_chunks=1, schedule="fill-drain")
    ranking = rank(job_of(model, 4), costs, replace(wanted, may_stay_whole=False))
    assert [p.plan for p in ranking.predictions if p.plan] == [Plan("pipeline", (1, 3), ("a1",), 1, "fill-drain")]
    assert ranking.choice.name == "pipeline"
    slow = costs_of(model.stages(), {"a0": 1.0}, split_s=3.0)
    assert rank(job_of(model, 4), slow, Wanted(("kernel",))).choice.name == ONE_DEVICE
    assert rank(job_of(model, 4), slow, Wanted(("kernel",), may_stay_whole=False)).choice.name == "kernel"
    with pytest.raises(ValueError, match="split.micro_batches: 5 is more than the 4"):
        rank(job_of(model, 4), costs, Wanted(("kernel",), micro_batches=5))


def test_choices_of_micro_batches() -> None:
    choices = micro_batch_choices(16)
    assert {(16,), (8, 8), (4, 4, 4, 4), (1,) * 16, (1, 3, 4, 4, 3, 1)} <= set(choices)
    for num_samples in range(1, 40):
        choices = micro_batch_choices(num_samples)
        assert len(set(choices)) == len(choices)
        assert all(sum(sizes) == num_samples and min(sizes) > 0 for sizes in choices)


def test_data_parallelism_as_a_program() -> None:
    stages = Chain(2).stages()
    program = data_parallel_program(stages, 2, (2, 1), 1)
    program.check()
    assert program.micro_batches == (2, 1, 2, 1)
    assert all(
        program.calls[task.call].micro_batch // 2 == device for device in (0, 1) for task in program.orders[device]
    )
    assert not any(
        program.device_of(need) != device
        for device in (0, 1)
        for t in program.orders[device]
        for need in program.needs(t)
    )
