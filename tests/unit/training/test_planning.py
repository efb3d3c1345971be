"""What the settings say of a split, what is chosen where they say nothing, and how it is written down."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from rich.console import Console

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.models import create_model, voxel_loss_stage
from hvd_r2n2.split import Plan
from hvd_r2n2.split.costs import Costs, Machine, Part, PartCosts, Point, TensorSize
from hvd_r2n2.split.network import STRATEGIES
from hvd_r2n2.split.planner import Job, Ranking, Wanted, rank
from hvd_r2n2.split.rehearsal import unit_program
from hvd_r2n2.training import planning
from hvd_r2n2.training.machine_costs import Effort, measure_costs, memory_of
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.plan_report import chosen_config, explain, to_json, to_plan_yaml, to_table
from hvd_r2n2.training.planning import KeptPlan, given_plan, keep_plan, make_job, make_plan, wanted_of

CPU = torch.device("cpu")
HERE = Placement((CPU, CPU), 1)
TINY = ("model.name=3d-gru-1", "model.width=0.0625", "train.batch_size=8", "train.max_views=2")
T = TypeVar("T")


def config_of(*overrides: str) -> Config:
    return load_config(None, (*TINY, *overrides))


def job_of(config: Config, num_ranks: int = 1, num_devices: int = 2) -> Job:
    model = create_model(config.model.name, width=config.model.width, seed=0)
    return make_job(config, model, voxel_loss_stage(), num_devices, num_ranks)


def costs_of(job: Job, half_s: float = 0.6, machine: Machine | None = None, layer_s: float = 1.0) -> Costs:
    """Every layer takes `layer_s` a sample (and view), forward and backward; a part of one `half_s`."""
    stages = job.stages
    units = {call.piece.stages for call in unit_program(stages, (1,), 1).calls}
    parts = {Part(unit): PartCosts((Point(1, layer_s, layer_s, 1000, 0),)) for unit in units}
    parts |= {
        Part(unit, weights_later=True): PartCosts((Point(1, layer_s, layer_s / 2, 1000, 0, layer_s / 2),))
        for unit in units
    }
    for strategy in ("kernel", "spatial"):
        for call in Plan(strategy).program(stages, 2, 2, 2).calls:
            parts[Part.of(call.piece)] = PartCosts((Point(1, half_s, half_s, 500, 0),))
    axes = {tensor.name: tensor.axes for stage in stages for tensor in stage.outputs}
    sizes = {name: TensorSize(dict.fromkeys(set(letters) - set("BV"), 4), 4) for name, letters in axes.items()}
    return Costs(parts, {stage.name: stage.views for stage in stages}, sizes, machine or Machine())


class Second(Alone):
    """Another rank than the first."""

    rank, size = 1, 2

    def __init__(self, sent: Plan | None) -> None:
        super().__init__()
        self._sent: list[Any] = [None, None, (sent,)]  # rank 0 is not ready at the first meetings

    def broadcast_object(self, value: T) -> T:
        assert value is None, "only rank 0 has something to say"
        sent: T = self._sent.pop(0)
        return sent


def plan_of(
    config: Config,
    said: list[str] | None = None,
    communicator: Alone | None = None,
    placement: Placement = HERE,
    kept: KeptPlan | None = None,
) -> Plan | None:
    job = job_of(config)
    lines = [] if said is None else said
    communicator = communicator or Alone()
    return make_plan(config, job.model, voxel_loss_stage(), placement, communicator, lines.append, kept)  # type: ignore[arg-type]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """Costs as of `costs_of` in place of measured ones; the efforts that were asked for."""
    efforts: list[Effort] = []

    def measure(config: Config, job: Job, *others: Any, effort: Effort, **more: Any) -> Costs:
        efforts.append(effort)
        return costs_of(job)

    monkeypatch.setattr(planning, "measure_costs", measure)
    return efforts


@pytest.mark.parametrize(
    ("overrides", "plan"),
    [
        (("strategy=kernel", "micro_batches=2"), Plan("kernel", 2)),
        (("strategy=spatial", "micro_batch_sizes=[3,5]"), Plan("spatial", (3, 5))),
        (
            ("strategy=pipeline", "micro_batches=4", "cut=[decoder.block7]"),
            Plan("pipeline", 4, ("decoder.block7",)),
        ),
        (
            ("strategy=pipeline", "micro_batches=4", "cut=[encoder.fc7]", "view_chunks=2", "schedule=fill-drain"),
            Plan("pipeline", 4, ("encoder.fc7",), 2, "fill-drain"),
        ),
    ],
)
def test_settings_that_say_all_need_no_measuring(
    overrides: Sequence[str], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measure_costs", None)
    config = config_of(*(f"split.{override}" for override in overrides))
    assert given_plan(config.split) == plan
    assert plan_of(config) == plan


def test_a_cut_is_chosen(measured: list[Effort]) -> None:
    said: list[str] = []
    plan = plan_of(config_of("split.strategy=pipeline"), said)
    assert plan is not None
    assert plan.strategy == "pipeline"
    assert (plan.view_chunks, plan.schedule) == (1, "zero-bubble")
    assert len(plan.cut) == 1
    assert plan.bubble_share is not None
    assert 0 <= plan.bubble_share < 1
    assert measured == [planning.AT_START]
    assert said[-1].startswith(f"split: pipeline, cut at {plan.cut[0]}")


def test_the_rest_of_a_pipeline_is_kept(measured: list[Effort]) -> None:
    plan = plan_of(config_of("split.strategy=pipeline", "split.cut=[encoder.fc7]", "split.view_chunks=2"))
    assert plan is not None
    assert (plan.cut, plan.view_chunks) == (("encoder.fc7",), 2)
    plan = plan_of(config_of("split.strategy=pipeline", "split.micro_batch_sizes=[1,7]"))
    assert plan is not None
    assert plan.micro_batches == (1, 7)


def test_auto_takes_the_fastest_and_says_why(measured: list[Effort]) -> None:
    said: list[str] = []
    config = config_of("split.strategy=auto")
    plan = plan_of(config, said)
    ranking = rank(job_of(config), costs_of(job_of(config)))
    assert plan == ranking.choice.plan
    assert f"split: {explain(ranking)}" in said
    assert "Data parallelism over the same 2 devices would be" in said[-1]


def test_auto_may_find_one_device_best(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: Config, job: Job, *others: Any, **more: Any) -> Costs:
        slow = Machine(slowdowns={"pipeline": 9.0}, handover_s=1e3)
        return costs_of(job, half_s=2.0, machine=slow)

    monkeypatch.setattr(planning, "measure_costs", measure)
    said: list[str] = []
    assert plan_of(config_of("split.strategy=auto"), said) is None
    assert said[-1].startswith("split: one device alone is best")


@pytest.mark.parametrize("strategy", ["kernel", "spatial"])
def test_parts_have_as_few_micro_batches_as_memory_allows(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(f"split.strategy={strategy}")
    job = job_of(config)
    costs = costs_of(job, half_s=0, layer_s=0)
    monkeypatch.setattr(planning, "measure_costs", lambda *_, **more: costs)
    assert plan_of(config) == Plan(strategy, 1)
    four = rank(job, costs, replace(wanted_of(config.split), micro_batches=4)).choice
    limited = replace(costs, machine=Machine(memory_bytes=four.peak_bytes))
    monkeypatch.setattr(planning, "measure_costs", lambda *_, **more: limited)
    said: list[str] = []
    assert plan_of(config, said) == Plan(strategy, 4)
    assert said == [f"split: {strategy}, 2 2 2 2 samples in turn, as memory demands"]


def test_other_ranks_take_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "measure_costs", None)
    plan = Plan("kernel", 2)
    assert plan_of(config_of("split.strategy=auto"), communicator=Second(plan)) == plan
    assert plan_of(config_of("split.strategy=auto"), communicator=Second(None)) is None


def test_the_first_rank_meets_the_others_while_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    meetings = threading.Semaphore(0)

    def measure(config: Config, job: Job, *others: Any, **more: Any) -> Costs:
        assert all(meetings.acquire(timeout=10) for _ in range(3))
        return costs_of(job)

    class First(Alone):
        def broadcast_object(self, value: T) -> T:
            meetings.release()
            return value

    monkeypatch.setattr(planning, "measure_costs", measure)
    plan = plan_of(config_of("split.strategy=pipeline", "train.stall_timeout_s=1"), communicator=First())
    assert plan is not None


def test_what_fails_while_measuring_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*others: Any, **more: Any) -> Costs:
        raise ValueError("no such luck")

    monkeypatch.setattr(planning, "measure_costs", measure)
    with pytest.raises(ValueError, match="no such luck"):
        plan_of(config_of("split.strategy=pipeline"))


@pytest.mark.parametrize(
    ("strategy", "plan", "words"),
    [
        (
            "pipeline",
            Plan("pipeline", (1, 4, 3), ("encoder.fc7",), 2, "1f1b", bubble_share=0.125),
            "pipeline, cut at encoder.fc7, 1 4 3 samples in turn, views in 2 chunks, 1f1b",
        ),
        ("kernel", Plan("kernel", 2), "kernel, 4 4 samples in turn"),
        ("auto", Plan("spatial", 1, bubble_share=0.25), "spatial, the whole batch at once"),
        ("auto", None, "one device, the whole batch at once"),
    ],
)
def test_plan_that_was_kept_is_taken_again_without_measuring(
    strategy: str, plan: Plan | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measure_costs", None)
    config = config_of(f"split.strategy={strategy}")
    kept = keep_plan(config, plan, HERE, 1)
    said: list[str] = []
    patient = replace(config, split=replace(config.split, hang_timeout_s=9.0))
    again = plan_of(patient, said, kept=kept)
    assert again == plan
    assert (again and again.bubble_share) == (plan and plan.bubble_share)
    assert said == [f"split: {words}, as chosen before"]


@pytest.mark.parametrize(
    ("override", "placement", "num_ranks"),
    [
        ("split.view_chunks=2", HERE, 1),
        ("split.devices=[cpu:0,cpu:1]", HERE, 1),
        ("train.batch_size=16", HERE, 1),
        ("train.accumulation=2", HERE, 1),
        ("train.recompute=true", HERE, 1),
        ("model.form=plain", HERE, 1),
        ("train.seed=0", Placement((CPU, CPU, CPU), 1), 1),
        ("train.seed=0", Placement((CPU, CPU), 2), 1),
        ("train.seed=0", HERE, 2),
    ],
)
def test_plan_that_was_kept_for_something_else_is_made_anew(
    override: str, placement: Placement, num_ranks: int, measured: list[Effort]
) -> None:
    before = config_of("split.strategy=pipeline", override)
    kept = keep_plan(before, Plan("pipeline", 8, ("encoder.fc7",)), placement, num_ranks)
    assert plan_of(config_of("split.strategy=pipeline"), kept=kept) is not None
    assert measured == [planning.AT_START]


def test_nothing_is_kept_of_a_plan_that_the_settings_say() -> None:
    assert keep_plan(config_of(), None, HERE, 1) is None
    config = config_of("split.strategy=kernel", "split.micro_batches=2")
    assert keep_plan(config, given_plan(config.split), HERE, 1) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("strategy=pipeline", "cut=[decoder.block77]"),
            "no stage is called decoder.block77 .did you mean decoder.block7",
        ),
        (("strategy=kernel", "micro_batches=5"), "5 is more than the 4 sample"),
        (("strategy=auto", "micro_batches=5"), "5 is more than the 4 sample"),
        (("strategy=pipeline", "micro_batch_sizes=[3,5]"), "add up to 8, but a rank has 4 samples"),
    ],
)
def test_what_is_not_possible_is_said_by_every_rank(overrides: Sequence[str], message: str) -> None:
    config = config_of(*(f"split.{override}" for override in overrides))
    with pytest.raises(ValueError, match=message):
        plan_of(config, communicator=Second(None))


def test_numbers_of_views_to_plan_for() -> None:
    assert job_of(config_of()).view_counts == (1, 2)
    assert job_of(config_of("train.min_views=3", "train.max_views=3")).view_counts == (3,)
    counts = job_of(config_of("train.max_views=24")).view_counts
    assert (counts[0], counts[-1], len(counts)) == (1, 24, 5)


def test_samples_of_a_rank() -> None:
    job = job_of(config_of("train.accumulation=2"), num_ranks=2)
    assert (job.num_samples, job.accumulation) == (2, 2)


def test_measuring_leaves_the_network_as_it_was() -> None:
    config = config_of("train.batch_size=2")
    job = job_of(config)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    costs = measure_costs(
        config,
        job,
        [CPU, CPU],
        1,
        strategies=("pipeline", "kernel", "spatial"),
        cut=None,
        schedule=None,
        ranks_of_host=1,
        effort=Effort(1, 0.1),
        report=lambda text: None,
    )
    assert all(torch.equal(value, before[name]) for name, value in job.model.state_dict().items())
    assert all(parameter.grad is None for parameter in job.model.parameters())
    assert costs.machine.slowdowns.keys() == {"pipeline", "kernel", "spatial", "data parallel"}
    assert costs.machine.state_bytes_per_byte == pytest.approx(2, rel=1e-3), "Adam's two moments"
    assert costs.machine.copy_s_per_byte == 0, "logical devices share memory"
    names = {prediction.name for prediction in rank(job, costs).predictions}
    assert names == {"one device", "data parallel", "pipeline", "kernel", "spatial"}
    only_bytes = measure_costs(
        config,
        job,
        [CPU, CPU],
        1,
        strategies=("kernel",),
        cut=None,
        schedule=None,
        ranks_of_host=1,
        effort=planning.ONLY_MEMORY,
        report=lambda text: None,
    )
    assert all(point.forward_s == 0 for cost in only_bytes.parts.values() for point in cost.points)
    assert any(point.saved_bytes > 0 for cost in only_bytes.parts.values() for point in cost.points)


@pytest.mark.parametrize("effort", [planning.ONLY_MEMORY, Effort(1, 0.01, data_parallel=False)])
@pytest.mark.parametrize(("num_devices", "num_views"), [(2, 1), (4, 3)])
def test_spatial_is_measured_whole_where_views_are_fewer_than_devices(
    num_devices: int, num_views: int, effort: Effort
) -> None:
    config = config_of("train.batch_size=4", f"train.max_views={num_views}")
    job = job_of(config, num_devices=num_devices)
    costs = measure_costs(
        config,
        job,
        [CPU] * num_devices,
        1,
        strategies=("spatial",),
        cut=None,
        schedule=None,
        ranks_of_host=1,
        effort=effort,
        report=lambda text: None,
    )
    predictions = rank(job, costs, Wanted(("spatial",), may_stay_whole=False)).predictions
    assert {one.micro_batches for one in predictions if one.name == "spatial"} == {(4,), (2, 2), (2, 1, 1), (1,) * 4}


@pytest.mark.parametrize("strategy", ["kernel", "spatial"])
@pytest.mark.parametrize("micro_batches", ["null", "1"])
def test_layers_are_not_shared_by_one_device(strategy: str, micro_batches: str) -> None:
    words = (f"split.strategy={strategy}", f"split.micro_batches={micro_batches}", "split.devices=[cpu:0]")
    config = config_of("train.batch_size=4", *words)
    with pytest.raises(ValueError, match=rf"^{strategy} split over 1 device: there is nothing to share"):
        plan_of(config, placement=replace(HERE, devices=HERE.devices[:1]))


def test_one_device_is_measured_without_parts() -> None:
    config = config_of("train.batch_size=4", "train.max_views=2")
    job = job_of(config, num_devices=1)
    costs = measure_costs(
        config,
        job,
        [CPU],
        1,
        strategies=STRATEGIES,
        cut=None,
        schedule=None,
        ranks_of_host=1,
        effort=Effort(1, 0.01),
        report=lambda text: None,
    )
    ranking = rank(job, costs)
    assert {one.name for one in ranking.predictions} == {"one device", "pipeline"}
    assert ranking.impossible.keys() == {"kernel", "spatial"}


def test_memory_is_shared_by_ranks_and_logical_devices() -> None:
    (one, _), (half, is_shared) = memory_of([CPU], 1), memory_of([CPU, CPU], 2)
    assert is_shared
    assert one is not None
    assert half == pytest.approx(one / 2, rel=0.2), "the system's memory changes meanwhile"


def ranking_of(config: Config) -> Ranking:
    job = job_of(config)
    return rank(job, costs_of(job), wanted_of(config.split))


@pytest.mark.parametrize(
    "plan",
    [
        None,
        Plan("kernel", 2),
        Plan("spatial", (3, 5)),
        Plan("pipeline", 4, ("decoder.block7",), 2, "fill-drain"),
        Plan("pipeline", (1, 3, 3, 1), ("encoder.fc7",)),
    ],
)
def test_settings_with_a_plan_mean_that_plan(plan: Plan | None, tmp_path: Path) -> None:
    config = config_of("split.strategy=auto", "split.devices=[cpu:0,cpu:1]", "split.hang_timeout_s=9")
    chosen = chosen_config(config, plan)
    assert given_plan(chosen.split) == plan
    assert (chosen.model, chosen.train, chosen.split.hang_timeout_s) == (config.model, config.train, 9)
    assert chosen.split.devices == (None if plan is None else ("cpu:0", "cpu:1"))


def test_yaml_is_read_back(tmp_path: Path) -> None:
    config = config_of("split.strategy=auto")
    ranking = ranking_of(config)
    path = tmp_path / "plan.yaml"
    path.write_text(to_plan_yaml(config, ranking, "python -m hvd_r2n2.plan", "a machine"), encoding="utf-8")
    assert load_config(path) == chosen_config(config, ranking.choice.plan)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert " ".join(line[2:] for line in header).endswith(explain(ranking))


def test_towers_stay_when_another_strategy_is_chosen() -> None:
    config = config_of("split.strategy=kernel", "split.cross=[encoder.block2]")
    assert chosen_config(config, Plan("kernel", 1)).model.cross == ("encoder.block2",)
    assert chosen_config(config, Plan("kernel", 1)).split.cross is None


def test_the_table_has_the_best_of_every_kind_and_json_has_all() -> None:
    config = config_of("split.strategy=auto")
    ranking = ranking_of(config)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(to_table(ranking, "a step"))
    text = console.export_text()
    assert all(name in text for name in ("one device", "data parallel", "pipeline", "kernel", "spatial"))
    content = json.loads(to_json(ranking, costs_of(job_of(config)), {"command": "a command"}))
    assert len(content["candidates"]) == len(ranking.predictions)
    assert content["choice"] == next(c for c in content["candidates"] if c["name"] == ranking.choice.name)
    assert content["explanation"] == explain(ranking)
    times = [c["step_s"] for c in content["candidates"]]
    assert times == sorted(times)
