"""Runs the calls of a program one after another on one device and notes what each of them takes.

What is scheduled later are the same calls, so nothing has to be guessed of layers, their parts or their sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from torch import Tensor, nn

from hvd_r2n2.common.memory import MemoryCounter
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split.executor import Executor, Options
from hvd_r2n2.split.pipeline import pipeline_program
from hvd_r2n2.split.program import Key, Program, Task, one_at_a_time
from hvd_r2n2.split.shards import Shards
from hvd_r2n2.split.worker import Worker


@dataclass(frozen=True)
class Take:
    """What both runs of one call took."""

    forward_s: float
    backward_s: float
    saved_bytes: int
    """Held for backward from the one to the other, beside what earlier calls on the same device hold anyway."""
    shared_bytes: int
    """Further bytes that it holds together with earlier calls of the device."""


def unit_program(stages: Sequence[Stage], micro_batches: Sequence[int], num_views: int) -> Program:
    """Give a program for one device with a piece for each stage; consecutive fold stages stay together."""
    starts = [
        number
        for number in range(1, len(stages))
        if not (stages[number].views == "fold" and stages[number - 1].views == "fold")
    ]
    cut = [stages[number].name for number in starts]
    program = pipeline_program(stages, len(cut) + 1, micro_batches, (num_views,), cut, views_in_chunks=False)
    return on_one_device(program)


def on_one_device(program: Program) -> Program:
    """Give the same calls, all on the first device, one micro-batch after another."""
    calls = tuple(replace(call, piece=replace(call.piece, device=0)) for call in program.calls)
    return replace(program, num_devices=1, calls=calls, orders=one_at_a_time(calls, 1))


class Rehearsal:
    """A program on one worker, ready to be run as often as wanted.

    The network's weights stay as they are, and are without gradients afterwards.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        program: Program,
        inputs: Mapping[str, Tensor],
        worker: Worker,
        options: Options,
    ) -> None:
        """Cut the weights as the program wants them, all on the worker's device.

        Args:
            model: the network whose parameters the stages have.
            stages: its stages, ending with the loss.
            program: what is to be run; made for the sizes of `inputs`.
            inputs: network inputs and target by name.
            worker: which runs it.
            options: how tasks are run. Counters are the rehearsal's own, and nothing is computed twice.
        """
        self._program, self._alone, self._worker = program, on_one_device(program), worker
        self._inputs = {name: tensor.to(worker.device) for name, tensor in inputs.items()}
        shards = Shards(model, stages, {call.piece: None for call in self._alone.calls}, [worker.device])
        self._leaves = [leaf for shard in shards for leaf in shard.leaves_on(0)]
        self._stages, self._options = shards.stages, replace(options, recompute=False)
        self._seconds: list[dict[Task, float]] = []
        self._between_s: list[float] = []
        self._saved: dict[int, tuple[int, int]] = {}
        self.outputs: Mapping[Key, Tensor] = {}
        """What the calls gave in the first run, without values."""

    def run(self, *, keeps_times: bool = True) -> float:
        """Run the program once; return the seconds of all tasks together. The first run only warms up and counts."""
        is_first = not self._saved
        probe = _Probe([*self._leaves, *self._inputs.values()], self._program, self._worker, counts=is_first)
        executor = Executor([self._worker], self._stages, replace(self._options, counters=[probe]))
        start = time.perf_counter()
        result = executor.run(self._alone, self._inputs, keep=list(self._program.producers) if is_first else [])
        between_s = (time.perf_counter() - start - sum(probe.seconds)) / len(probe.seconds)
        for leaf in self._leaves:
            leaf.grad = None
        order = self._alone.orders[0]
        if is_first:
            saved = zip(order, probe.saved, strict=True)
            self._saved = {task.call: found for task, found in saved if not task.backward}
            self.outputs = {key: tensor.to("meta") for key, tensor in result.outputs.items()}
        elif keeps_times:
            self._seconds.append(dict(zip(order, probe.seconds, strict=True)))
            self._between_s.append(between_s)
        return sum(probe.seconds)

    @property
    def between_s(self) -> float:
        """Give the time between two tasks: the median of all runs but the first."""
        return median(self._between_s)

    def takes(self) -> dict[int, Take]:
        """Give what each call took, by its number: the median of all runs but the first."""
        assert self._seconds, "nothing has been measured yet"

        def seconds(task: Task) -> float:
            return median(run[task] for run in self._seconds)

        return {
            number: Take(seconds(Task(number, False)), seconds(Task(number, True)), *self._saved[number])
            for number in range(len(self._program.calls))
        }


class _Probe(MemoryCounter):
    """Notes task by task what the one worker of a rehearsal does; counts as if each call were on its own device."""

    def __init__(self, left_out: Sequence[Tensor], program: Program, worker: Worker, *, counts: bool) -> None:
        super().__init__(left_out)
        order = on_one_device(program).orders[0]
        self._devices = [program.calls[task.call].piece.device for task in order]
        self._counters = [MemoryCounter(left_out) for _ in range(program.num_devices)]
        self._current, self._single = self._counters[0], MemoryCounter()
        self._left_out_tensors, self._worker, self._counts = left_out, worker, counts
        self.seconds: list[float] = []
        self.saved: list[tuple[int, int]] = []

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watch one task."""
        self._current = self._counters[self._devices[len(self.seconds)]]
        self._single = MemoryCounter(self._left_out_tensors)
        before = self._current.held_bytes
        self._wait()
        start = time.perf_counter()
        if self._counts:
            with super().counting():
                yield
        else:
            yield
        self._wait()
        self.seconds.append(time.perf_counter() - start)
        saved = self._current.held_bytes - before
        self.saved.append((saved, self._single.held_bytes - saved))

    def hold(self, tensor: Tensor) -> Any:
        """Count a tensor on the device of the running task."""
        self._single.add(tensor)
        return self._current.hold(tensor)

    def _wait(self) -> None:
        if self._worker.stream is not None:
            self._worker.stream.synchronize()
