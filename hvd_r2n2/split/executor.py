"""Runs a program: every device's tasks in their order, each when what it needs is there.

No barrier stands inside autograd: each task's graph starts at detached inputs and ends at its outputs, and the
executor carries values forward and gradients back between tasks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hvd_r2n2.common.memory import MemoryCounter
from hvd_r2n2.common.moments import Moment, moment, seconds_between
from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.common.wide_linear import WideWork
from hvd_r2n2.split.exchange import Assembly, embed, gather, narrowed, scatter, zeros_length
from hvd_r2n2.split.graph import Gradient, TwoRuns, accumulate, find_gradients, trained
from hvd_r2n2.split.program import LOSS, Call, Fragment, Input, Key, Kind, Program, Task, TaskTime
from hvd_r2n2.split.worker import Worker


@dataclass(frozen=True)
class Options:
    """How every task is run."""

    recompute: bool = False
    """Keep only a task's inputs for its backward run and compute the rest again there (activation checkpointing)."""
    hang_timeout_s: float = 600.0
    """Longest time without any task ending."""
    autocast: Callable[[torch.device], AbstractContextManager[object]] = lambda device: nullcontext()
    """Context of forward runs on a device."""
    counters: Sequence[MemoryCounter] = ()
    """One a device: counts what its tasks hold for backward."""


@dataclass(frozen=True)
class Span:
    """When a task ran, as its device notes it."""

    call: Call
    device: int
    kind: Kind
    start: Moment
    end: Moment


@dataclass(frozen=True)
class StepResult:
    """What a step gave."""

    loss: Tensor
    """Mean over the samples times the scale of the step, in float64, on the first device."""
    outputs: Mapping[Key, Tensor]
    """The values that were asked for."""
    bytes_moved: int
    """Bytes of values and gradients that a device took from another one."""
    begin: tuple[Moment, ...]
    """When each device was given its first task."""
    spans: tuple[Span, ...]
    """Of all tasks."""

    def tasks(self, begin: Sequence[Moment] | None = None) -> Iterator[TaskTime]:
        """Give when each task ran, in seconds after a step began, by default this one; waits for GPUs."""
        for span in self.spans:
            start = (begin or self.begin)[span.device]
            start_s, end_s = seconds_between(start, span.start), seconds_between(start, span.end)
            yield TaskTime(span.call.name, span.device, span.kind, span.call.micro_batch, start_s, end_s)


@dataclass(frozen=True)
class _Entries:
    """A call's inputs: leaves of its graph, and how long the fragments of each are along its axis."""

    tensors: list[Tensor | None]
    lengths: list[list[int]]


class Executor:
    """Workers for a rank's devices and the stages of every piece: runs programs over them."""

    def __init__(
        self, workers: Sequence[Worker], stages: Mapping[str, Sequence[Stage]], options: Options | None = None
    ) -> None:
        """Take the workers (closed by their owner) and, by piece, its stages with the weights of its device."""
        self.workers = workers
        self.stages = stages
        self.options = options or Options()
        self.parameters = {piece: trained(part) for piece, part in stages.items()}

    def run(
        self,
        program: Program,
        inputs: Mapping[str, Tensor],
        on_gradients: Callable[[str], None] = lambda piece: None,
        keep: Sequence[Key] = (),
        scale: float = 1.0,
    ) -> StepResult:
        """Run one step forward and backward: gradients are added to those that the weights have.

        Args:
            program: what to run; made for the sizes of `inputs`.
            inputs: the network's inputs and targets by name, of the whole batch.
            on_gradients: called by a worker with the name of a piece whose gradients are whole; others may still work.
            keep: values to give back.
            scale: factor on the loss and so on all gradients.

        Raises:
            RuntimeError: no task has ended for `hang_timeout_s`; says what each worker does or waits for.
            BaseException: whatever a task raised first, as it was raised; all workers have stopped then.
        """
        self._follow_caller()
        step = _Step(self, program, inputs, on_gradients, keep, scale)
        futures = [worker.submit(partial(step.work, device)) for device, worker in enumerate(self.workers)]
        step.wait_for(futures)
        self._lead_caller()
        return step.result()

    def on_every_device(self, job: Callable[[int], object]) -> None:
        """Run `job(device number)` on all workers at once and wait; raise what the first failing one raised."""
        self._follow_caller()
        for future in [worker.submit(partial(job, device)) for device, worker in enumerate(self.workers)]:
            future.result()
        self._lead_caller()

    def _follow_caller(self) -> None:
        gpus = {worker.device for worker in self.workers if worker.stream is not None}
        for worker in self.workers:
            worker.follow(gpus)

    def _lead_caller(self) -> None:
        for worker in self.workers:
            worker.lead()


class _Step:
    """One run of a program."""

    def __init__(
        self,
        executor: Executor,
        program: Program,
        inputs: Mapping[str, Tensor],
        on_gradients: Callable[[str], None],
        keep: Sequence[Key],
        scale: float,
    ) -> None:
        self._scale = scale
        self._executor, self._program, self._on_gradients = executor, program, on_gradients
        self._inputs = dict(inputs)
        self._options, self._workers = executor.options, executor.workers
        self._values: dict[Key, Tensor] = {}
        self._keep = {key: torch.empty(0) for key in keep}
        self._assemblies: dict[Input, Assembly] = {}
        self._readers = Counter({key: len(places) for key, places in program.consumers.items()})
        self._gradients: dict[tuple[Key, tuple[int, int, int]], Gradient] = {}
        self._saved: dict[int, tuple[_Entries, list[Tensor] | None]] = {}
        self._weights_later: dict[int, TwoRuns] = {}
        self._held: dict[int, object] = {}
        self._wide_work = [WideWork() for _ in executor.workers]
        self._losses: dict[int, Tensor] = {}
        self._done: set[Task] = set()
        self._events: dict[Task, torch.cuda.Event] = {}
        self._spans: list[Span] = []
        self._bytes_moved = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._doing = ["nothing yet"] * len(executor.workers)
        self._last_end = time.perf_counter()
        self._begin = tuple(moment(worker.device, worker.stream) for worker in executor.workers)

    def wait_for(self, futures: Sequence[Future[None]]) -> None:
        """Return when all workers are done; raise what the first failing one raised."""
        limit_s = self._options.hang_timeout_s
        while wait(futures, timeout=min(1.0, limit_s)).not_done:
            if time.perf_counter() - self._last_end > limit_s:
                doing = "; ".join(
                    f"device {device} ({w.device}): {self._doing[device]}" for device, w in enumerate(self._workers)
                )
                self._fail(RuntimeError(f"the split hangs: no task has ended for {limit_s:g} s. {doing}"))
                break
        if self._error is not None:
            raise self._error

    def result(self) -> StepResult:
        """Give what the finished step gave; the losses are added in the order of the calls."""
        device = self._workers[0].device
        losses = [self._losses[number].to(device) for number in sorted(self._losses)]
        loss = torch.stack(losses).sum()
        return StepResult(loss, self._keep, self._bytes_moved, self._begin, tuple(self._spans))

    def work(self, device: int) -> None:
        """Run a device's tasks; the worker's own thread calls it."""
        try:
            for task in self._program.orders[device]:
                self._wait(task, device)
                with self._counting(device), self._wide_work[device].active():
                    self._run(task, device)
        except _CancelledError:
            pass
        except BaseException as error:
            self._fail(error)

    def _counting(self, device: int) -> AbstractContextManager[object]:
        counters = self._options.counters
        return counters[device].counting() if counters else nullcontext()

    def _wait(self, task: Task, device: int) -> None:
        needs = self._program.needs(task)
        label = self._label(task)
        with self._changed:
            while missing := [need for need in needs if need not in self._done]:
                if self._error is not None:
                    raise _CancelledError
                self._doing[device] = f"{label} waits for {', '.join(map(self._label, missing))}"
                self._changed.wait()
            if self._error is not None:
                raise _CancelledError
        self._doing[device] = f"{label} runs"
        if (stream := self._workers[device].stream) is not None:
            for need in needs:
                if self._program.device_of(need) != device:
                    stream.wait_event(self._events[need])

    def _run(self, task: Task, device: int) -> None:
        worker = self._workers[device]
        start = moment(worker.device, worker.stream)
        call = self._program.calls[task.call]
        if task.kind == "forward":
            self._forward(task.call, call)
        elif task.kind == "backward":
            self._wide_work[device].is_last = self._program.last_backward[call.piece.name] == task.call
            self._backward(task.call, call)
        else:
            accumulate(self._weights_later.pop(task.call).of_weights())
        if task in self._program.completing:
            self._on_gradients(self._program.completing[task])
        end = moment(worker.device, worker.stream)
        with self._changed:
            if not isinstance(end, float):
                self._events[task] = end
            self._done.add(task)
            self._last_end = time.perf_counter()
            self._spans.append(Span(call, device, task.kind, start, end))
            self._changed.notify_all()

    def _forward(self, number: int, call: Call) -> None:
        entries = self._gather(call)
        with torch.set_grad_enabled(not self._options.recompute):
            outputs = self._compute(call, entries)
        self._saved[number] = (entries, None if self._options.recompute else outputs)
        if self._options.recompute and self._options.counters:  # autograd has not saved them
            counter = self._options.counters[call.piece.device]
            self._held[number] = [counter.hold(tensor) for tensor in entries.tensors if tensor is not None]
        for key, output in zip(call.outputs, outputs, strict=True):
            if key.tensor == LOSS:
                self._losses[number] = output.detach().double() * (call.weight * self._scale)
            if self._readers[key]:
                self._values[key] = output.detach()
            if key in self._keep:
                self._keep[key] = output.detach()

    def _compute(self, call: Call, entries: _Entries) -> list[Tensor]:
        """Run the piece's stages on its inputs."""
        stages = self._executor.stages[call.piece.name]
        with self._options.autocast(self._workers[call.piece.device].device):
            if call.piece.cut in ("channels", "planes"):
                (stage,) = stages
                views = [
                    tensor.squeeze(0)
                    if tensor is not None and stage.views == "fold" and "V" in entry.tensor.axes
                    else tensor
                    for entry, tensor in zip(call.inputs, entries.tensors, strict=True)
                ]
                results = stage.module(*views)
                return [results] if isinstance(results, Tensor) else list(results)
            named = {
                entry.tensor.name: tensor
                for entry, tensor in zip(call.inputs, entries.tensors, strict=True)
                if tensor is not None
            }
            results = run_stages(stages, named, {key.tensor for key in call.outputs})
            return [results[key.tensor] for key in call.outputs]

    def _gather(self, call: Call) -> _Entries:
        """Put a call's inputs together; those that other calls gave become leaves that want a gradient."""
        tensors: list[Tensor | None] = []
        lengths: list[list[int]] = []
        for entry in call.inputs:
            parts = [self._fragment(call, entry, number) for number in range(len(entry.fragments))]
            tensor = self._put_together(entry, parts) if parts else None
            axis = entry.tensor.axes.index(entry.axis) if entry.axis else 0
            spans = [
                zeros_length(fragment) if part is None else part.shape[axis]
                for fragment, part in zip(entry.fragments, parts, strict=True)
            ]
            if tensor is not None and any(f.key in self._program.producers for f in entry.fragments):
                tensor = tensor.detach().requires_grad_(tensor.is_floating_point())
            tensors.append(tensor)
            lengths.append(spans)
        for key in call.reads():
            self._let_go(key)
        return _Entries(tensors, lengths)

    def _put_together(self, entry: Input, parts: list[Tensor | None]) -> Tensor:
        """Give a whole input; devices that share their memory make those that they want alike together."""
        num_takers = self._program.shared_inputs.get(entry)
        if num_takers is None or any(worker.device.type != "cpu" for worker in self._workers):
            return gather(entry, parts)
        with self._changed:
            if entry not in self._assemblies:
                self._assemblies[entry] = Assembly(entry, [part for part in parts if part is not None], num_takers)
            assembly = self._assemblies[entry]
        while True:
            with self._changed:
                number = assembly.claim()
            if number is None:
                break
            assembly.copy(number)
            with self._changed:
                assembly.note_copied()
                self._changed.notify_all()
        with self._changed:
            while not assembly.is_whole:
                if self._error is not None:
                    raise _CancelledError
                self._changed.wait()
            if assembly.take():
                del self._assemblies[entry]
        return assembly.whole

    def _fragment(self, call: Call, entry: Input, number: int) -> Tensor | None:
        """Give a fragment on the call's device; None where it is zeros."""
        fragment = entry.fragments[number]
        key, axes = fragment.key, entry.tensor.axes
        if key is None:
            return None
        producer = self._program.producers.get(key)
        value = self._network_input(key, axes) if producer is None else self._values[key]
        part = narrowed(value, fragment, axes)
        if producer is None:
            return part.to(self._workers[call.piece.device].device, non_blocking=True)
        return self._moved(part, self._program.calls[producer].piece.device, call.piece.device)

    def _moved(self, tensor: Tensor, source: int, target: int) -> Tensor:
        """Give a tensor of one device on another."""
        if source == target:
            return tensor
        with self._changed:
            self._bytes_moved += tensor.numel() * tensor.element_size()
        if (stream := self._workers[target].stream) is not None:
            tensor.record_stream(stream)
        return tensor.to(self._workers[target].device, non_blocking=True)

    def _network_input(self, key: Key, axes: str) -> Tensor:
        """Give a micro-batch's samples, and a chunk's views, of a network input."""
        value, program = self._inputs[key.tensor], self._program
        if "B" in axes:
            start = sum(program.micro_batches[: key.micro_batch])
            value = value.narrow(axes.index("B"), start, program.micro_batches[key.micro_batch])
        if "V" in axes and key.chunk is not None:
            start = sum(program.chunks[: key.chunk])
            value = value.narrow(axes.index("V"), start, program.chunks[key.chunk])
        return value

    def _let_go(self, key: Key) -> None:
        """Note that a value was read once more; the last reader frees it."""
        with self._changed:
            self._readers[key] -= 1
            if self._readers[key] == 0:
                self._values.pop(key, None)

    def _backward(self, number: int, call: Call) -> None:
        entries, outputs = self._saved.pop(number)
        self._held.pop(number, None)
        if outputs is None:
            outputs = self._compute(call, entries)
        seeds = [self._seed(call, key, output) for key, output in zip(call.outputs, outputs, strict=True)]
        roots = [(output, seed) for output, seed in zip(outputs, seeds, strict=True) if seed is not None]
        roots = [(output, seed) for output, seed in roots if output.requires_grad]
        leaves = [(i, t) for i, t in enumerate(entries.tensors) if t is not None and t.requires_grad]
        parameters = self._executor.parameters[call.piece.name]
        ends, own_seeds = [output for output, _ in roots], [seed for _, seed in roots]
        tensors = [tensor for _, tensor in leaves]
        if call.piece.weights_later:
            runs = self._weights_later[number] = TwoRuns(ends, own_seeds)
            wide = [p for p in parameters if self._wide_work[call.piece.device].puts_off(p)]
            found = runs.of_inputs(tensors, parameters, together=wide)
        else:
            found = find_gradients(ends, own_seeds, [*tensors, *parameters])
        for (i, _), gradient in zip(leaves, found, strict=False):
            if gradient is not None:
                for f, part in enumerate(scatter(call.inputs[i], gradient.tensor, entries.lengths[i])):
                    key = call.inputs[i].fragments[f].key
                    if key in self._program.producers:
                        self._gradients[key, (number, i, f)] = Gradient(part, gradient.is_own)
        accumulate(zip(parameters, found[len(leaves) :], strict=True))

    def _seed(self, call: Call, key: Key, output: Tensor) -> Tensor | None:
        """Give an output's gradient: all its readers' together, in the order of the calls; None if none has any."""
        if key.tensor == LOSS:
            return torch.full_like(output, call.weight * self._scale)
        total: Tensor | None = None
        is_own = False
        # Whole ones first: parts can then be added in place.
        for entry, fragment, part in sorted(
            self._contributions(key, call.piece.device), key=lambda found: found[1].axis is not None
        ):
            if total is None and fragment.axis is None:
                total, is_own = part.tensor, part.is_own
                continue
            if not is_own:
                total, is_own = torch.zeros_like(output) if total is None else total.clone(), True
            assert total is not None
            embed(total, fragment, entry.tensor.axes, part.tensor)
        return total

    def _contributions(self, key: Key, device: int) -> Iterator[tuple[Input, Fragment, Gradient]]:
        """Give each reader's gradient of a value, moved to `device`."""
        for place in self._program.consumers[key]:
            if (key, place) in self._gradients:
                part = self._gradients.pop((key, place))
                consumer, i, f = place
                reader = self._program.calls[consumer]
                entry = reader.inputs[i]
                moved = self._moved(part.tensor, reader.piece.device, device)
                yield entry, entry.fragments[f], Gradient(moved, part.is_own)

    def _label(self, task: Task) -> str:
        return f"{task.kind} of {self._program.calls[task.call].name}"

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()


class _CancelledError(Exception):
    """Another worker has failed: this one stops too."""
