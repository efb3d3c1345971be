"""A network whose layers are split over a rank's local devices."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split.executor import Executor, Options, StepResult
from hvd_r2n2.split.kernel import kernel_program
from hvd_r2n2.split.pipeline import pipeline_program
from hvd_r2n2.split.program import Program, spread
from hvd_r2n2.split.shards import Shard, Shards
from hvd_r2n2.split.spatial import spatial_program
from hvd_r2n2.split.worker import Worker

STRATEGIES = ("pipeline", "kernel", "spatial")


@dataclass(frozen=True)
class Plan:
    """How the stages are split: everything but the devices."""

    strategy: str
    """One of `STRATEGIES`."""
    micro_batches: int | tuple[int, ...] = 1
    """How many, nearly equal; or the samples of each."""
    cut: tuple[str, ...] = ()
    """Pipeline only: the first stage of every device but the first."""
    view_chunks: int = 1
    """Pipeline only: into how many chunks the views are cut (at most; fewer where there are fewer views)."""
    schedule: str = "zero-bubble"
    """Pipeline only: `1f1b`, `zero-bubble` or `fill-drain`."""
    bubble_share: float | None = field(default=None, compare=False)
    """Share of the devices' time that is expected to be idle, if the plan was made from measured times."""

    def sizes(self, num_samples: int) -> tuple[int, ...]:
        """Give the samples of each micro-batch.

        Raises:
            ValueError: there are fewer samples than micro-batches, or the sizes given have another sum.
        """
        if isinstance(self.micro_batches, tuple):
            if sum(self.micro_batches) != num_samples or min(self.micro_batches) < 1:
                raise ValueError(
                    f"split.micro_batch_sizes: {list(self.micro_batches)} add up to {sum(self.micro_batches)}, "
                    f"but a rank has {num_samples} samples at a time (train.batch_size / ranks / train.accumulation)"
                )
            return self.micro_batches
        if self.micro_batches > num_samples:
            raise ValueError(
                f"split.micro_batches: {self.micro_batches} is more than the {num_samples} sample(s) that a rank has "
                "at a time (train.batch_size / ranks / train.accumulation)"
            )
        return spread(num_samples, self.micro_batches)

    def program(self, stages: Sequence[Stage], num_devices: int, num_samples: int, num_views: int) -> Program:
        """Give the step's program for a batch of these sizes (1 view for a network without views).

        Raises:
            ValueError: the plan is not possible for these stages, devices or sizes.
        """
        sizes = self.sizes(num_samples)
        if self.strategy == "kernel":
            return kernel_program(stages, num_devices, sizes, num_views)
        if self.strategy == "spatial":
            return spatial_program(stages, num_devices, sizes, num_views)
        assert self.strategy == "pipeline", self.strategy
        chunks = spread(num_views, min(self.view_chunks, num_views))
        return pipeline_program(
            stages,
            num_devices,
            sizes,
            chunks,
            self.cut,
            schedule=self.schedule,
            views_in_chunks=self.view_chunks > 1,
        )


class SplitNetwork:
    """A network's stages on several devices, with weights of their own; a context manager.

    `shards` hold the weights that are trained. The network given keeps its own, which `write_back` brings up to date.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        plan: Plan,
        devices: Sequence[torch.device],
        *,
        threads_per_device: int = 1,
        options: Options | None = None,
    ) -> None:
        """Cut the weights and start the workers.

        Args:
            model: the network whose parameters the stages have, on the first device.
            stages: its stages, ending with the loss.
            plan: how they are split.
            devices: the rank's devices in order; logical ones may be the same.
            threads_per_device: of each CPU device.
            options: how tasks are run.

        Raises:
            ValueError: the plan is not possible.
        """
        self.plan, self.devices = plan, tuple(devices)
        self._stages = tuple(stages)
        self._programs: dict[tuple[int, int], Program] = {}
        pieces = {call.piece: None for call in self._any_program().calls}
        self.shards = Shards(model, stages, pieces, devices)
        self.workers = [Worker(number, device, threads_per_device) for number, device in enumerate(devices)]
        self.executor = Executor(self.workers, self.shards.stages, options)

    def program(self, num_samples: int, num_views: int) -> Program:
        """Give the program of a step of these sizes, made once."""
        sizes = (num_samples, num_views)
        if sizes not in self._programs:
            program = self.plan.program(self._stages, len(self.devices), num_samples, num_views)
            program.check()
            self._programs[sizes] = program
        return self._programs[sizes]

    def gradients(
        self,
        inputs: Mapping[str, Tensor],
        on_shard: Callable[[Shard], None] | None = None,
        scale: float = 1.0,
    ) -> StepResult:
        """Add the gradient of the mean loss of a batch to the shards'.

        Args:
            inputs: network inputs and target by name.
            on_shard: called by a worker with each shard whose gradient is whole, its replicas' included, while others
                still work; None while more batches are to be added.
            scale: factor on the loss.
        """
        program = self.program(*self._sizes(inputs))
        waiting = Counter(shard.label for piece in program.last_backward for shard in self.shards.of_piece(piece))
        lock = threading.Lock()

        def on_piece(piece: str) -> None:
            if on_shard is None:
                return
            for shard in self.shards.of_piece(piece):
                with lock:
                    waiting[shard.label] -= 1
                    is_whole = waiting[shard.label] == 0
                if is_whole:
                    with self.workers[shard.device].after(self.workers if shard.replicas else ()):
                        shard.add_replicas()
                        on_shard(shard)  # here, where a reduction over ranks sees that it comes after the sum

        return self.executor.run(program, inputs, on_piece, scale=scale)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.close()

    def __enter__(self) -> SplitNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _any_program(self) -> Program:
        """Give a program with all pieces, whatever the sizes are."""
        count = self.plan.micro_batches
        num_samples = sum(count) if isinstance(count, tuple) else count * len(self.devices)
        return self.program(num_samples, len(self.devices))

    def _sizes(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """Give samples and views of a batch."""
        axes = {read.tensor.name: read.tensor.axes for stage in self._stages for read in stage.inputs}
        sizes = {"B": 0, "V": 1}
        for name, tensor in inputs.items():
            sizes |= dict(zip(axes[name], tensor.shape, strict=True))
        return sizes["B"], sizes["V"]
