"""One process's part of an arm: whole training steps, by the engine that training uses or by torch's DDP."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hvd_r2n2.comm import Alone, Communicator
from hvd_r2n2.common.memory import DeviceMemory, MemoryCounter, device_memory
from hvd_r2n2.common.moments import moment, seconds_between
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.bursts import BurstTimes
from hvd_r2n2.models import Network
from hvd_r2n2.training.build_engine import build_engine
from hvd_r2n2.training.engine import StepReport
from hvd_r2n2.training.forward import cut_samples, mean_loss
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.optimizer import build_optimizer
from hvd_r2n2.training.placement import Placement, place_rank
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.step import share_of_batch
from hvd_r2n2.training.tasks import create_task

NO_REPORT = StepReport(0.0, 0.0, 0.0, 0.0)
"""Of a step that trains nothing."""


class Runner(ABC):
    """One process's part of an arm. Here is what goes for one that has no batch, no network and no parts."""

    def __init__(self, placement: Placement) -> None:
        """Take the devices."""
        self.placement = placement
        self.notes: list[str] = []
        """What it says of its choices."""

    def batch(self, num_views: int) -> dict[str, Tensor]:
        """Return what a step takes."""
        return {}

    @abstractmethod
    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Take one step."""

    def parts_s(self) -> Mapping[str, float]:
        """Return, by name, how long each part took of the last step, if it has parts that are timed apart."""
        return {}

    def times(self) -> BurstTimes:
        """Return what allreduces alone were like in the last step."""
        return BurstTimes()

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return what each device holds, with the peak since the last call."""
        return (DeviceMemory(0, 0, 0, 0),)

    def close(self) -> None:  # noqa: B027 (most have nothing to end)
        """End what it has started."""


class EngineRunner(Runner):
    """Steps as `hvd_r2n2.train` takes them, with its own share of the batch where there are ranks."""

    def __init__(self, config: Config, communicator: Communicator) -> None:
        """Make network and optimizer; every rank calls it.

        Raises:
            ValueError: the settings are not possible.
        """
        super().__init__(place_rank(config, communicator, lambda text: None))
        self.config = config
        self.num_samples = share_of_batch(config, communicator.size)
        self.model, loss_stage = build_network(config, self.placement)
        if communicator.size > 1:
            self.notes.append(communicator.description)
        self._engine = build_engine(
            config, self.model, loss_stage, communicator, self.placement, report=self.notes.append
        )

    def batch(self, num_views: int) -> dict[str, Tensor]:
        """Return the random batch that it is to train on, on its first device."""
        return random_inputs(self.config, self.model, self.num_samples, num_views, self.placement.devices[0])

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Take one step."""
        return self._engine.step(inputs, self.config.optimizer.learning_rate)

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return what each device holds, with the peak since the last call."""
        return self._engine.memory()

    def close(self) -> None:
        """End its threads."""
        self._engine.close()


class DistributedRunner(Runner):
    """The same steps by torch's DistributedDataParallel, with its own defaults, over Gloo or NCCL.

    As in training, the gradient's norm is computed. `communication_s` begins when the last gradient is there, before it
    goes into its bucket, and ends when all are averaged; the engine's begins when backward is done, which is right
    after its last gradient has been handed over, and its end includes the mean of the loss, which DDP does not take.
    """

    def __init__(self, config: Config, rank: int, size: int, store: Path) -> None:
        """Join the other ranks and make network and optimizer; every rank calls it.

        Raises:
            ValueError: the settings are not possible.
        """
        super().__init__(place_rank(config, Alone(), lambda text: None))
        self.config = config
        self.num_samples = share_of_batch(config, size)
        device = self.placement.devices[0]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine, whatever its name means
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=size
        )
        self.model, loss_stage = build_network(config, self.placement)
        self._module = _Loss(config, self.model, loss_stage)
        self._parallel = DistributedDataParallel(self._module)
        self._optimizer = build_optimizer(config.optimizer, self.model.parameters())
        self._counter = MemoryCounter(self.model.parameters()) if device.type == "cpu" else None
        self._last_gradient = moment(device)
        for parameter in self.model.parameters():
            parameter.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]

    def batch(self, num_views: int) -> dict[str, Tensor]:
        """Return the random batch that it is to train on."""
        return random_inputs(self.config, self.model, self.num_samples, num_views, self.placement.devices[0])

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Take one step."""
        parts = self.config.train.accumulation
        loss = torch.zeros((), dtype=torch.float64, device=self.placement.devices[0])
        self._optimizer.zero_grad()
        for number, part in enumerate(cut_samples(inputs, self._module.stages, parts), start=1):
            with (
                self._counter.counting() if self._counter else contextlib.nullcontext(),
                contextlib.nullcontext() if number == parts else self._parallel.no_sync(),
            ):
                own = self._parallel(part) / parts
                own.backward()
            loss += own.detach()
        end = moment(self.placement.devices[0])
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()
        self._optimizer.step()
        rate = self.config.optimizer.learning_rate
        return StepReport(loss.item(), norm, rate, communication_s=seconds_between(self._last_gradient, end))

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return what the device holds, with the peak since the last call.

        DDP sends buckets, which hold all gradients a second time.
        """
        parameters = list(self.model.parameters())
        found = device_memory(parameters, [self._optimizer], self.placement.devices[0], self._counter)
        saved = found.saved if found.allocated is None else max(0, found.saved - found.gradients)  # has them, too
        return (replace(found, gradients=2 * found.gradients, saved=saved),)

    def close(self) -> None:
        """Leave the other ranks."""
        torch.distributed.destroy_process_group()

    def _note_gradient(self, parameter: Tensor) -> None:
        self._last_gradient = moment(parameter.device)


class _Loss(torch.nn.Module):
    """The network with its loss, as one module."""

    def __init__(self, config: Config, model: Network, loss_stage: Stage) -> None:
        super().__init__()
        self.model = model
        self._config, self.stages = config, (*model.stages(), loss_stage)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give the mean loss."""
        return mean_loss(self._config, self.stages, inputs)


def build_network(config: Config, placement: Placement) -> tuple[Network, Stage]:
    """Return the network on the first device, and its loss."""
    model = build_model(config.model, config.train.seed).to(placement.devices[0], weights_dtype(config.train.dtype))
    model.train()
    return model, create_task(config).loss_stage()
