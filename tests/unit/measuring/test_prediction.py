"""What is predicted for the arms of a benchmark, whatever their settings call micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring import prediction
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.prediction import predict_arms
from hvd_r2n2.split.costs import Costs, Part, PartCosts, Point, TensorSize
from hvd_r2n2.split.planner import Job
from hvd_r2n2.split.rehearsal import unit_program

TINY = ("model.name=3d-gru-1", "model.width=0.0625", "train.device=cpu")
MACHINE = Machine(num_devices=2, threads=1, cores=(0, 1), gpus=())
ONE = ArmSpec("one-device")
DDP = ArmSpec("ddp", kind="ddp", processes=2)
PIPELINE = ArmSpec(
    "pipeline",
    overrides=(
        "split.strategy=pipeline",
        "split.micro_batches=2",
        "split.cut=[decoder.block7]",
        "split.schedule=1f1b",
    ),
)


def costs_of(config: Any, job: Job, *others: Any, **more: Any) -> Costs:
    """A run of a layer takes a second and one more a sample, so that small micro-batches are dearer; nothing else."""
    points = (Point(1, 2.0, 2.0, 0, 0), Point(8, 9.0, 9.0, 0, 0))
    parts = {Part(call.piece.stages): PartCosts(points) for call in unit_program(job.stages, (1,), 1).calls}
    axes = {tensor.name: tensor.axes for stage in job.stages for tensor in stage.outputs}
    sizes = {name: TensorSize(dict.fromkeys(set(letters) - set("BV"), 4), 4) for name, letters in axes.items()}
    return Costs(parts, {stage.name: stage.views for stage in job.stages}, sizes)


@pytest.fixture(autouse=True)
def _layers_of_known_costs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prediction, "measure_costs", costs_of)
    monkeypatch.setattr(prediction, "keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def predicted_s(arm: ArmSpec, *overrides: str) -> float:
    config = load_config(None, [*TINY, *overrides])
    return predict_arms([arm], config, MACHINE, 1, lambda text: None)[arm.name]


@pytest.mark.parametrize("arm", [ONE, DDP])
def test_steps_of_devices_without_a_split_have_the_micro_batches_of_their_arm_alone(arm: ArmSpec) -> None:
    quarter_s = predicted_s(arm, "train.batch_size=2")
    for given in ("train.accumulation=1", "train.accumulation=2"):
        found_s = predicted_s(arm.with_accumulation(4), "train.batch_size=8", given)
        assert found_s == pytest.approx(4 * quarter_s)


def test_a_split_step_is_taken_as_many_times_as_its_arm_accumulates() -> None:
    half_s = predicted_s(PIPELINE, "train.batch_size=4")
    assert predicted_s(PIPELINE, "train.batch_size=8", "train.accumulation=2") == pytest.approx(2 * half_s)
    assert predicted_s(PIPELINE.with_accumulation(2), "train.batch_size=8") == pytest.approx(2 * half_s)
    assert predicted_s(PIPELINE, "train.batch_size=8") < 2 * half_s


def test_no_more_samples_are_measured_than_a_micro_batch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(config: Any, job: Job, *others: Any, **more: Any) -> Costs:
        measured.append(job.num_samples)
        return costs_of(config, job)

    monkeypatch.setattr(prediction, "measure_costs", measure)
    config = load_config(None, [*TINY, "train.batch_size=8"])
    for arms, most in (
        ([ONE.with_accumulation(8), DDP.with_accumulation(2)], 2),
        ([ONE, PIPELINE], 8),
        ([PIPELINE], 4),
    ):
        assert len(predict_arms(arms, config, MACHINE, 1, lambda text: None)) == len(arms)
        assert measured.pop() == most
    ranks = ArmSpec("horovod", kind="horovod", processes=2)
    assert predict_arms([ranks], config, MACHINE, 1, lambda text: None) == {}
    assert not measured
