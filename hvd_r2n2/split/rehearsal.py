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
from torch.autograd.graph import saved_tensors_hooks

from hvd_r2n2.common.memory import MemoryCounter
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split.executor import Executor, Options
from hvd_r2n2.split.pipeline import pipeline_calls, pipeline_pieces
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
    weights_s: float = 0.0
    """Of the gradients of weights, where they are apart from the backward run."""


def unit_program(
    stages: Sequence[Stage], micro_batches: Sequence[int], num_views: int, *, weights_later: bool = False
) -> Program:
    """Give a program for one device with a piece for each stage; consecutive fold stages stay together."""
    starts = [
        number
        for number in range(1, len(stages))
        if not (stages[number].views == "fold" and stages[number - 1].views == "fold")
    ]
    cut = [stages[number].name for number in starts]
    pieces = pipeline_pieces(stages, len(cut) + 1, cut, views_in_chunks=False)
    own = [replace(piece, device=0, weights_later=weights_later) for piece in pieces]
    calls = pipeline_calls(stages, own, micro_batches, 1)
    return Program("pipeline", 1, tuple(micro_batches), (num_views,), calls, one_at_a_time(calls, 1))


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
        self._program = program
        self._step = _Step(model, stages, on_one_device(program), inputs, [worker], options)
        self._order = self._step.program.orders[0]
        self._seconds: list[dict[Task, float]] = []
        self._between_s: list[float] = []
        self._saved: dict[int, tuple[int, int]] = {}
        self.outputs: Mapping[Key, Tensor] = {}
        """What the calls gave in the first run, without values."""

    def run(self) -> float:
        """Run the program once; return the seconds of all tasks together. The first run only warms up and counts."""
        step, order = self._step, self._order
        if not self._saved:
            counting = _CountingProbe(step.workers[0], self._program, order, step.left_out)
            outputs = step.run([counting], keep=list(self._program.producers))
            found = zip(order, counting.saved, strict=True)
            self._saved = {task.call: saved for task, saved in found if task.kind == "forward"}
            self.outputs = {key: tensor.to("meta") for key, tensor in outputs.items()}
            return counting.seconds
        probe = _Probe(step.workers[0])
        start = time.perf_counter()
        step.run([probe])
        self._between_s.append((time.perf_counter() - start - probe.seconds) / len(order))
        self._seconds.append({task: end - begin for task, (begin, end) in zip(order, probe.spans, strict=True)})
        return probe.seconds

    @property
    def between_s(self) -> float:
        """Give the time between two tasks: the median of all runs but the first, 0 if there was no other."""
        return median(self._between_s or [0.0])

    def takes(self) -> dict[int, Take]:
        """Give what each call took, by its number: the median of all runs but the first; no time without any other."""

        def seconds(task: Task) -> float:
            return median([run.get(task, 0.0) for run in self._seconds] or [0.0])

        return {
            number: Take(
                seconds(Task(number, "forward")),
                seconds(Task(number, "backward")),
                *self._saved[number],
                seconds(Task(number, "weights")),
            )
            for number in range(len(self._program.calls))
        }


class Performance:
    """A program on all workers at once, as it is meant, to find out how much slower its runs are then."""

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        program: Program,
        inputs: Mapping[str, Tensor],
        workers: Sequence[Worker],
        options: Options,
    ) -> None:
        """Cut the weights as the program wants them; arguments as of a `Rehearsal`."""
        self._step = _Step(model, stages, program, inputs, workers, options)

    def run(self) -> list[list[tuple[float, float]]]:
        """Run the program once; give by device when its tasks began and ended."""
        probes = [_Probe(worker) for worker in self._step.workers]
        self._step.run(probes)
        return [probe.spans for probe in probes]


class _Step:
    """A program with its weights and inputs; leaves the weights without gradients."""

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        program: Program,
        inputs: Mapping[str, Tensor],
        workers: Sequence[Worker],
        options: Options,
    ) -> None:
        self.program, self.workers = program, workers
        self._inputs, self._options = inputs, replace(options, recompute=False)
        pieces = {call.piece: None for call in program.calls}
        shards = Shards(model, stages, pieces, [worker.device for worker in workers])
        devices = range(len(workers))
        self._leaves = [leaf for shard in shards for device in devices for leaf in shard.leaves_on(device)]
        self._stages = shards.stages
        self.left_out = [*self._leaves, *inputs.values()]
        """Tensors that are there whether the program runs or not."""

    def run(self, probes: Sequence[_Probe], keep: Sequence[Key] = ()) -> Mapping[Key, Tensor]:
        """Run it once, watched; give the values that were asked for."""
        executor = Executor(self.workers, self._stages, replace(self._options, counters=probes))
        outputs = executor.run(self.program, self._inputs, keep=keep).outputs
        for leaf in self._leaves:
            leaf.grad = None
        return outputs


class _Probe(MemoryCounter):
    """Notes when the tasks of a worker begin and end, on a GPU too."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self.spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Time of all tasks together."""
        return sum(end - begin for begin, end in self.spans)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watch one task."""
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self.spans.append((begin, time.perf_counter()))

    def _wait(self) -> None:
        if self._worker.stream is not None:
            self._worker.stream.synchronize()


class _CountingProbe(_Probe):
    """Counts besides what each call saves, as if all were on their own devices."""

    def __init__(self, worker: Worker, program: Program, order: Sequence[Task], left_out: Sequence[Tensor]) -> None:
        super().__init__(worker)
        self._devices = iter([program.calls[task.call].piece.device for task in order])
        self._counters = [MemoryCounter(left_out) for _ in range(program.num_devices)]
        self._left_out_tensors = left_out
        self._current, self._single = self._counters[0], MemoryCounter()
        self.saved: list[tuple[int, int]] = []
        """Of each task: bytes that its device holds more than before, and that it holds together with earlier calls."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watch one task."""
        self._current, self._single = self._counters[next(self._devices)], MemoryCounter(self._left_out_tensors)
        before = self._current.held_bytes
        with super().counting(), saved_tensors_hooks(self._hold, lambda held: held.give_back()):
            yield
        more = self._current.held_bytes - before
        self.saved.append((more, self._single.held_bytes - more))

    def _hold(self, tensor: Tensor) -> Any:
        self._single.add(tensor)
        return self._current.hold(tensor)
