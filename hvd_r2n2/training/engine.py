"""What turns a batch into moved weights: on one device, or with the layers split over a rank's devices."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hvd_r2n2.comm import Communicator, GradientAverager, JobError
from hvd_r2n2.common.memory import DeviceMemory, MemoryCounter, device_memory
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.common.wide_linear import WideWork
from hvd_r2n2.config import Config
from hvd_r2n2.models import Network
from hvd_r2n2.split import Plan, TaskTime
from hvd_r2n2.training.forward import cut_samples, mean_loss
from hvd_r2n2.training.optimizer import build_optimizer, set_learning_rate


class NotFiniteError(JobError):
    """The loss or the gradient of a step is not finite; no weight has moved."""


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    loss: float
    """Mean over the global batch."""
    gradient_norm: float
    """2-norm of the whole averaged gradient, before clipping."""
    learning_rate: float
    """As used."""
    communication_s: float
    """Time this rank waited for gradients after its backward pass had ended."""
    tasks: tuple[TaskTime, ...] = ()
    """When each task of a split ran."""
    bytes_moved: int = 0
    """Bytes that a device took from another one."""
    is_skipped: bool = False
    """Whether the weights stayed as they were, since the loss was a spike."""
    is_asked_to_stop: bool = False
    """Whether any rank was asked to stop before this step's gradients were averaged; the same on every rank."""


class Engine(ABC):
    """A network in training on one rank: its gradients, averaged over ranks, and its optimizer.

    Every rank makes one and calls the same methods in the same order. The network holds the newest weights only after
    `write_back`.
    """

    optimizers: Sequence[torch.optim.Optimizer]
    """One a device."""
    averager: GradientAverager
    """Of all that the optimizers move."""
    plan: Plan | None = None
    """How its network is split; None: it is not."""

    def __init__(self, config: Config, model: Network, communicator: Communicator) -> None:
        self.config, self.model, self.communicator = config, model, communicator

    def step(
        self,
        inputs: Mapping[str, Tensor],
        learning_rate: float,
        admits: Callable[[float], bool] = lambda loss: True,
        *,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> StepReport:
        """Train on this rank's share of one global batch; every rank must call it.

        Args:
            inputs: network inputs and target by the names that the stages have for them.
            learning_rate: of this step.
            admits: says of the loss, the same on every rank, whether weights may move.
            asked_to_stop: says whether this rank was, which all ranks learn in the report.

        Raises:
            NotFiniteError: on every rank, if loss or gradient of any is not finite; no weight has moved.
        """
        self._clear_gradients()
        total, tasks, bytes_moved = self._gradients(inputs)
        if total.is_cuda and self.communicator.size > 1:
            # The host would wait for gradients in any case; until here it waits for backward, not for other ranks.
            torch.cuda.current_stream(total.device).synchronize()
        start = time.perf_counter()
        shared = torch.stack([total, torch.full_like(total, asked_to_stop())])
        pending = self.communicator.average_async(shared, "loss")
        self.averager.finish()
        self.communicator.wait(pending)
        communication_s = time.perf_counter() - start
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._leaves() if p.grad is not None])
        # The one time in a step of one rank and one device that the host waits for a GPU.
        loss, share_asked, gradient_norm = torch.cat([shared, norm.to(shared).view(1)]).tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise NotFiniteError(f"the loss is {loss:g} and the gradient's norm {gradient_norm:g}")
        is_admitted = admits(loss)
        if is_admitted:
            if self.config.train.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self._leaves(), self.config.train.clip_norm, norm)
            for optimizer in self.optimizers:
                set_learning_rate(optimizer, learning_rate)
            self._move_weights()
        return StepReport(
            loss,
            gradient_norm,
            learning_rate,
            communication_s,
            tasks,
            bytes_moved,
            is_skipped=not is_admitted,
            is_asked_to_stop=share_asked > 0,
        )

    @abstractmethod
    def write_back(self) -> None:
        """Give the network the newest weights."""

    @abstractmethod
    def take_up(self) -> None:
        """Go on from the network's weights."""

    @abstractmethod
    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as one device has it: by weight and key, on the host or the device."""

    @abstractmethod
    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `optimizer_tensors` gave.

        Raises:
            ValueError: a tensor is of no weight of the network, or of another shape.
        """

    def close(self) -> None:
        """Let go of the network's parameters and end all threads."""
        self.averager.close()

    @abstractmethod
    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return what each device holds, with the peak since the last call."""

    @abstractmethod
    def _gradients(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, tuple[TaskTime, ...], int]:
        """Start averaging the whole gradient; return the mean loss (float64), tasks and bytes moved."""

    @abstractmethod
    def _leaves(self) -> list[torch.nn.Parameter]:
        """Return what the optimizers move."""

    def _clear_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _move_weights(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


class OneDevice(Engine):
    """The plain network on one device."""

    sends_by_hooks = True
    """Whether gradients leave for the other ranks during the backward pass."""

    def __init__(self, config: Config, model: Network, loss_stage: Stage, communicator: Communicator) -> None:
        """Take the network, on its device already."""
        super().__init__(config, model, communicator)
        self._stages = (*model.stages(), loss_stage)
        self.optimizers = (build_optimizer(config.optimizer, model.parameters()),)
        self.averager = GradientAverager(model.named_parameters(), communicator, by_hooks=self.sends_by_hooks)
        is_on_cpu = next(model.parameters()).device.type == "cpu"
        self._counter = MemoryCounter(model.parameters()) if is_on_cpu else None

    def write_back(self) -> None:
        """Do nothing: it is the network's weights that are trained."""

    def take_up(self) -> None:
        """Do nothing."""

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the state as it is."""
        return {
            f"{name}:{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizers[0].state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load it."""
        check_fits(tensors, self.model)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        load_state(self.optimizers[0], lambda parameter: state_of(tensors, names[id(parameter)]))

    def _gradients(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, tuple[TaskTime, ...], int]:
        with self._counter.counting() if self._counter else nullcontext():
            return self._add_gradients(inputs), (), 0

    def _add_gradients(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Add to the parameters' gradients; return the mean loss."""
        parts = self.config.train.accumulation
        total = torch.zeros((), dtype=torch.float64, device=next(self.model.parameters()).device)
        work = WideWork()
        for number, part in enumerate(cut_samples(inputs, self._stages, parts), start=1):
            work.is_last = number == parts
            with work.active():
                loss = mean_loss(self.config, self._stages, part) / parts
                total += loss.detach()
                if work.is_last:
                    self.averager.arm()
                loss.backward()  # type: ignore[no-untyped-call]
        return total

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return the one device's."""
        parameters = self._leaves()
        return (device_memory(parameters, self.optimizers, parameters[0].device, self._counter),)

    def _leaves(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())


def state_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the optimizer's state of one weight, by key."""
    return {key.removeprefix(name + ":"): value for key, value in tensors.items() if key.startswith(name + ":")}


def check_fits(tensors: Mapping[str, Tensor], model: torch.nn.Module) -> None:
    """Raise a ValueError unless every tensor is the state of a weight of the network, and of its shape."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for key, value in tensors.items():
        name = key.rpartition(":")[0]
        if name not in shapes:
            raise ValueError(f"holds the optimizer's state of {name or key}, a weight that this network does not have")
        if value.ndim and value.shape != shapes[name]:
            raise ValueError(f"{key} has shape {list(value.shape)}, but {list(shapes[name])} is needed")


def load_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Give an optimizer the state that `state(parameter)` returns by key for each of its parameters."""
    parameters: Iterable[torch.nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    # load_state_dict keeps the saved type of `step` and puts each tensor on its parameter's device.
    loaded = {number: state(parameter) for number, parameter in enumerate(parameters)}
    optimizer.load_state_dict({"state": loaded, "param_groups": optimizer.state_dict()["param_groups"]})
