"""One step: what stops it, and what all ranks are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from hvd_r2n2.comm import Alone, JobError
from hvd_r2n2.config import load_config
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.loader import Batch, training_batches
from hvd_r2n2.models import Network, voxel_loss_stage
from hvd_r2n2.training.consistency import check_equal, check_same_start, parameter_digest
from hvd_r2n2.training.engine import NotFiniteError, OneDevice
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.spike_guard import FEWEST, LossSpikeError, SpikeHistory
from hvd_r2n2.training.step import TrainingStep
from hvd_r2n2.training.task_reconstruction import ReconstructionTask

CONFIG = load_config(
    None, ["model.name=3d-gru-1", "model.width=0.03125", "train.batch_size=4", "train.max_views=1", "train.steps=2"]
)


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return open_dataset(CONFIG.data, tiny_data, 32, lambda text: None)


def first_batch(dataset: Dataset) -> Batch:
    train = CONFIG.train
    with training_batches(
        dataset,
        indices=dataset.train,
        batch_size=train.batch_size,
        rank=0,
        size=1,
        seed=0,
        min_views=1,
        max_views=1,
        start_step=0,
        end_step=1,
        config=CONFIG.data,
    ) as batches:
        return next(batches)


def step_of(model: Network) -> TrainingStep:
    engine = OneDevice(CONFIG, model, voxel_loss_stage(), Alone())
    return TrainingStep(CONFIG, ReconstructionTask(CONFIG), engine, torch.device("cpu"))


def test_step_lowers_the_loss_of_its_batch(dataset: Dataset) -> None:
    model = build_model(CONFIG.model, 0)
    step, batch = step_of(model), first_batch(dataset)
    losses = [step.run(batch).loss for _ in range(30)]
    assert losses[-1] < losses[0] - 0.01


def test_sample_whose_loss_is_not_finite_is_named_and_weights_stay(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(CONFIG.model, 0)
    step, batch = step_of(model), first_batch(dataset)
    before = parameter_digest(model)
    red = batch.images_VBHWC[0, 2].float().mean()
    assert (batch.images_VBHWC[0].float().mean(dim=(1, 2, 3)) == red).sum() == 1

    original = step._prepare

    def poisoned(given: Batch) -> dict[str, torch.Tensor]:
        inputs = original(given)
        inputs["images"][:, 2] = float("nan")
        return inputs

    monkeypatch.setattr(step, "_prepare", poisoned)
    with pytest.raises(
        NotFiniteError, match=rf"step 1: the loss is nan .* Not finite at rank 0: {batch.samples[2]}\. "
    ):
        step.run(batch)
    assert parameter_digest(model) == before


def test_weights_that_overflow_stop_training(dataset: Dataset) -> None:
    model = build_model(CONFIG.model, 0)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(1e38)
    with pytest.raises(NotFiniteError, match="step 1: "):
        step_of(model).run(first_batch(dataset))


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_spike_of_the_loss_moves_no_weights(dataset: Dataset, action: Literal["stop", "skip"]) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, spike_factor=2.0, spike_action=action))
    model = build_model(config.model, 0)
    before = parameter_digest(model)
    engine = OneDevice(config, model, voxel_loss_stage(), Alone())
    history = SpikeHistory(losses=(0.01,) * FEWEST)
    step = TrainingStep(config, ReconstructionTask(config), engine, torch.device("cpu"), history)
    if action == "stop":
        with pytest.raises(LossSpikeError, match=r"step 1: the loss is 1\.\d+, more than train.spike_factor=2 times"):
            step.run(first_batch(dataset))
    else:
        assert step.run(first_batch(dataset)).is_skipped
        assert step.guard.history.skipped == 1
    assert parameter_digest(model) == before


class TwoRanks(Alone):
    """This rank and another one that says `other`."""

    size = 2

    def __init__(self, other: object) -> None:
        super().__init__()
        self._other = other

    def all_gather_object(self, value: object) -> list[object]:  # type: ignore[override]
        return [value, self._other]


def test_parameter_changed_on_one_rank_is_found() -> None:
    model = build_model(CONFIG.model, 0)
    right = parameter_digest(model)
    with torch.no_grad():
        list(model.parameters())[-1].view(-1)[0] += 1e-7
    wrong = parameter_digest(model)
    check_equal(TwoRanks(right), "step 3: parameters", right)
    with pytest.raises(JobError, match=r"step 3: parameters: rank\(s\) 1 differ"):
        check_equal(TwoRanks(wrong), "step 3: parameters", right)


def test_rank_that_starts_from_other_data_is_found() -> None:
    check_same_start(TwoRanks({"the data": "abc"}), {"the data": "abc"})
    with pytest.raises(JobError, match=r"the data is not the same on all ranks \(rank 0: abc, rank 1: xyz\)"):
        check_same_start(TwoRanks({"the data": "xyz"}), {"the data": "abc"})
