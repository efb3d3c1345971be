"""The engine of a network whose layers are split over a rank's devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hvd_r2n2.comm import Communicator, GradientAverager
from hvd_r2n2.common.memory import DeviceMemory, MemoryCounter, device_memory
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config
from hvd_r2n2.models import Network
from hvd_r2n2.split import Plan, Shard, SplitNetwork, SplitOptions, TaskTime, put, take
from hvd_r2n2.training.engine import Engine, check_fits, load_state, state_of
from hvd_r2n2.training.forward import cut_samples
from hvd_r2n2.training.optimizer import build_optimizer
from hvd_r2n2.training.precision import autocast


class SplitEngine(Engine):
    """Trains shards of the network's weights, each on its device; gradients leave for the other ranks as they come."""

    def __init__(
        self,
        config: Config,
        model: Network,
        loss_stage: Stage,
        communicator: Communicator,
        plan: Plan,
        devices: Sequence[torch.device],
        threads_per_device: int,
    ) -> None:
        """Cut the weights, start the workers and make an optimizer a device.

        Raises:
            ValueError: the plan is not possible for this network, batch or these devices.
        """
        super().__init__(config, model, communicator)
        self.plan = plan
        self._stages = (*model.stages(), loss_stage)
        # A GPU's allocator knows what is held, but does not tell the halves of one apart.
        are_gpus = devices[0].type == "cuda" and len(set(devices)) == len(devices)
        self._counters = () if are_gpus else tuple(MemoryCounter(model.parameters()) for _ in devices)
        options = SplitOptions(
            recompute=config.train.recompute,
            hang_timeout_s=config.split.hang_timeout_s,
            autocast=lambda device: autocast(config.train.dtype, device),
            counters=self._counters,
        )
        self.split = SplitNetwork(
            model, self._stages, plan, devices, threads_per_device=threads_per_device, options=options
        )
        for device, counter in enumerate(self._counters):
            counter.leave_out(leaf for shard in self.split.shards for leaf in shard.leaves_on(device))
        self._optimizer_on = {
            device: build_optimizer(config.optimizer, [s.leaf for s in self.split.shards if s.device == device])
            for device in sorted({shard.device for shard in self.split.shards})
        }
        self.optimizers = tuple(self._optimizer_on.values())
        named = [(shard.label, shard.leaf) for shard in self.split.shards]
        self.averager = GradientAverager(named, communicator, by_hooks=False)

    def write_back(self) -> None:
        """Copy the shards into the network."""
        self.split.shards.write_back()

    def take_up(self) -> None:
        """Copy the network's weights into the shards."""
        self.split.shards.take_up()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Put the shards' state together."""
        whole: dict[str, Tensor] = {}
        parameters = dict(self.model.named_parameters())
        for shard in self.split.shards:
            for key, value in self._optimizer_on[shard.device].state.get(shard.leaf, {}).items():
                name = f"{shard.name}:{key}"
                if not isinstance(value, Tensor):
                    continue
                if value.ndim == 0 or shard.rows is None:
                    whole[name] = value
                else:
                    put(
                        whole.setdefault(name, torch.zeros_like(parameters[shard.name], dtype=value.dtype)),
                        shard,
                        value,
                    )
        return whole

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Cut the state as the weights are cut."""
        check_fits(tensors, self.model)
        by_leaf = {id(shard.leaf): shard for shard in self.split.shards}

        def of_leaf(leaf: torch.nn.Parameter) -> dict[str, Tensor]:
            shard = by_leaf[id(leaf)]
            return {key: _part(value, shard) for key, value in state_of(tensors, shard.name).items()}

        for optimizer in self.optimizers:
            load_state(optimizer, of_leaf)

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return each device's."""
        found = []
        for device, place in enumerate(self.split.devices):
            leaves = [leaf for shard in self.split.shards for leaf in shard.leaves_on(device)]
            optimizers = [self._optimizer_on[device]] if device in self._optimizer_on else []
            is_counted = place.type == "cpu" or self.split.devices.count(place) > 1
            counter = self._counters[device] if is_counted else None
            found.append(device_memory(leaves, optimizers, place, counter))
        return tuple(found)

    def close(self) -> None:
        """End the workers too."""
        super().close()
        self.split.close()

    def _gradients(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, tuple[TaskTime, ...], int]:
        parts = self.config.train.accumulation
        results = []
        for number, part in enumerate(cut_samples(inputs, self._stages, parts), start=1):
            on_shard = self._start if number == parts else None
            results.append(self.split.gradients(part, on_shard, scale=1 / parts))
        tasks = tuple(task for result in results for task in result.tasks(results[0].begin))
        loss = torch.stack([result.loss for result in results]).sum()
        return loss, tasks, sum(result.bytes_moved for result in results)

    def _start(self, shard: Shard) -> None:
        if shard.leaf.grad is not None:
            self.averager.start(shard.label)

    def _leaves(self) -> list[torch.nn.Parameter]:
        return [shard.leaf for shard in self.split.shards]

    def _move_weights(self) -> None:
        self.split.executor.on_every_device(self._move_weights_of)
        self.split.shards.update_replicas()

    def _move_weights_of(self, device: int) -> None:
        if device in self._optimizer_on:
            self._optimizer_on[device].step()


def _part(value: Tensor, shard: Shard) -> Tensor:
    """Give a shard's part of a whole state tensor."""
    if value.ndim == 0 or shard.rows is None:
        return value.clone()  # optimizers count steps in place, and other shards have the same count
    part = torch.empty(shard.leaf.shape, dtype=value.dtype)
    take(value, shard, part)
    return part
