"""Layers split over halves of one GPU, and over two GPUs, compute what one GPU computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.common.stages import NamedTensor, Read, Stage, run_stages
from hvd_r2n2.config import load_config
from hvd_r2n2.models import create_model, voxel_loss_stage
from hvd_r2n2.split import Plan, SplitNetwork, SplitOptions
from hvd_r2n2.training.engine import OneDevice
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.split_engine import SplitEngine
from hvd_r2n2.training.tasks import create_task
from tests.conftest import Launcher
from tests.gpu.marks import ON_GPU
from tests.short_runs import TRAIN, settings

pytestmark = ON_GPU

NETWORKS = ("3d-lstm-1", "3d-gru-3", "res3d-gru-3")
CUTS = {"3d-lstm-1": "decoder.block7", "3d-gru-3": "recurrence.projection", "res3d-gru-3": "decoder.block8.b"}
PLANS = {
    "pipeline": lambda name: Plan("pipeline", micro_batches=3, cut=(CUTS[name],), view_chunks=2),
    "kernel": lambda name: Plan("kernel", micro_batches=2),
    "spatial": lambda name: Plan("spatial", micro_batches=2),
}


@pytest.fixture(params=["cuda:0 twice", "two GPUs"])
def devices(request: pytest.FixtureRequest) -> Iterator[list[torch.device]]:
    """Both placements, without TF32 in convolutions."""
    if request.param == "two GPUs" and torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPU here, two are needed")
    second = 1 if request.param == "two GPUs" else 0
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield [torch.device("cuda", 0), torch.device("cuda", second)]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("strategy", PLANS)
@pytest.mark.parametrize("name", NETWORKS)
def test_two_devices_equal_one(name: str, strategy: str, recompute: bool, devices: list[torch.device]) -> None:
    model = create_model(name, width=1 / 16, seed=3).double().to(devices[0])
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 4, 3, 127, 127, generator=generator, dtype=torch.float64)
    occupancy = (torch.rand(4, 32, 32, 32, generator=generator) < 0.2).to(torch.uint8)
    inputs = {"images": images.to(devices[0]), "occupancy": occupancy.to(devices[0])}
    stages = (*model.stages(), voxel_loss_stage())
    loss = run_stages(stages, inputs, {"loss"})["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    options = SplitOptions(recompute=recompute)
    with SplitNetwork(model, stages, PLANS[strategy](name), devices, options=options) as split:
        for _ in range(3):  # a race between streams need not show at once
            for shard in split.shards:
                for leaf in (shard.leaf, *shard.replicas.values()):
                    leaf.grad = None
            result = split.gradients(inputs, lambda shard: None)
            torch.cuda.synchronize()
            torch.testing.assert_close(result.loss, loss.detach().double(), rtol=0, atol=1e-11)
            for shard in split.shards:
                whole = expected[shard.name]
                part = (whole if shard.rows is None else shard.rows.of(whole)).to(shard.leaf.device)
                assert shard.leaf.grad is not None
                assert shard.leaf.device == devices[shard.device]
                torch.testing.assert_close(shard.leaf.grad.view(part.shape), part, rtol=0, atol=1e-11)


@pytest.mark.parametrize("strategy", PLANS)
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_move_weights_as_on_one_gpu(name: str, strategy: str, devices: list[torch.device]) -> None:
    """Clipped steps in a row: what one stream changes, another one must not read before or after its time."""
    words = [f"model.name={name}", "model.width=0.0625", "train.dtype=float64", "train.batch_size=4"]
    config = load_config(None, [*words, "train.clip_norm=0.001", "optimizer.name=adam"])
    loss_stage = create_task(config).loss_stage()
    one, other = (build_model(config.model, 0).double().to(devices[0]) for _ in range(2))
    plan = PLANS[strategy](name)
    with (
        closing(OneDevice(config, one, loss_stage, Alone())) as single,
        closing(SplitEngine(config, other, loss_stage, Alone(), plan, devices, 1)) as split,
    ):
        for step in range(8):
            torch.manual_seed(step)
            inputs = random_inputs(config, one, 4, 2, devices[0])
            expected, found = single.step(inputs, 1e-3), split.step(inputs, 1e-3)
            assert found.loss == pytest.approx(expected.loss, rel=1e-9)
            assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-6)
        split.write_back()
    for (parameter, own), twin in zip(other.named_parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(own, twin, rtol=0, atol=1e-9, msg=lambda text, p=parameter: f"{p}: {text}")


class Slow(torch.nn.Module):
    """Takes the GPU a while, the host none."""

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Give the mean of the inputs."""
        torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second at 2 GHz
        return x_BF.mean()


def test_times_of_tasks_are_those_of_the_gpu(devices: list[torch.device]) -> None:
    inputs = NamedTensor("x", "BF")
    first = Stage("first", torch.nn.Linear(3, 3).to(devices[0]), (Read(inputs),), (NamedTensor("y", "BF"),))
    last = Stage("last", Slow(), (Read(NamedTensor("y", "BF")),), (NamedTensor("loss", ""),))
    model = torch.nn.ModuleList([first.module])
    with SplitNetwork(model, (first, last), Plan("pipeline", cut=("last",)), devices) as split:
        result = split.gradients({"x": torch.ones(2, 3, device=devices[0])})
        (slow,) = [task for task in result.tasks() if task.kind == "forward" and task.device == 1]
    assert slow.end_s - slow.start_s > 0.02


@pytest.mark.parametrize("strategy", PLANS)
def test_training_on_split_gpus(
    strategy: str, devices: list[torch.device], tmp_path: Path, tiny_data: Path, python: Launcher
) -> None:
    split = {"split__strategy": strategy, "split__devices": f"[{devices[0]},{devices[1]}]", "train__device": "cuda"}
    if strategy == "pipeline":
        split |= {"split__cut": "[decoder.block7]", "split__micro_batches": 3}
    more = {"train__steps": 3, "model__width": 1 / 16, "train__cpu_threads": "null", **split}
    done = python(*TRAIN, *settings(tiny_data, **more), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{devices[0]}, {devices[1]}" in done.stdout
    assert ("(logical" in done.stdout) == (devices[0] == devices[1])
