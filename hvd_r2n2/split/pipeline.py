"""The pipeline: consecutive stages on each device, micro-batches of samples (and chunks of views) flowing through.

    device 0   F0 F1 F2 B0 B1 B2               1F1B with 3 micro-batches: forward of one, backward of one,
    device 1      F0 B0 F1 B1 F2 B2            in turn, as soon as there is something to do

    device 0   F0 F1 F2 B0 B1 B2               zero-bubble: backward runs of the other devices leave the
    device 1      F0 b0 F1 b1 w0 F2 b2 w1 w2   gradients of their weights (w) for when they would wait

Sources: GPipe (Huang et al. 2019) for fill-drain, PipeDream-Flush (Narayanan et al. 2021) for 1F1B, ZB-H1 of Qi et al.
2023 for zero-bubble.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from hvd_r2n2.common.names import nearest_hint
from hvd_r2n2.common.stages import NamedTensor, Stage
from hvd_r2n2.split.program import LOSS, Call, Fragment, Input, Key, Kind, Piece, Program, Task

CallCost = Callable[[Call, Kind], float]
"""Seconds of a run of a call."""


def pipeline_pieces(
    stages: Sequence[Stage], num_devices: int, cut: Sequence[str], *, views_in_chunks: bool, weights_later: bool = False
) -> tuple[Piece, ...]:
    """Give each device its consecutive stages; `cut` names the first stage of every device but the first.

    Where views come in chunks, a piece ends with the last stage that has to do with views. With `weights_later` the
    gradients of weights are tasks of their own, but on the first device, for which nobody waits.

    Raises:
        ValueError: `cut` does not name that many stages in their order, or cuts the recurrent unit.
    """
    names = [stage.name for stage in stages]
    _check_cut(stages, num_devices, cut)
    starts = [0, *(names.index(name) for name in cut), len(names)]
    pieces = []
    for device, (start, end) in enumerate(pairwise(starts)):
        runs = [list(range(start, end))]
        if views_in_chunks:
            viewed = [number for number in runs[0] if stages[number].views != "none"]
            runs = [run for run in (viewed, [number for number in runs[0] if number not in viewed]) if run]
        for run in runs:
            members = tuple(names[number] for number in run)
            name = members[0] if len(members) == 1 else f"{members[0]}…{members[-1]}"
            pieces.append(Piece(name, members, device, weights_later=weights_later and device > 0))
    return tuple(pieces)


def pipeline_program(
    stages: Sequence[Stage],
    num_devices: int,
    micro_batches: Sequence[int],
    chunks: Sequence[int],
    cut: Sequence[str],
    *,
    schedule: str,
    views_in_chunks: bool | None = None,
) -> Program:
    """Give the program of a step.

    Args:
        stages: the network's, ending with the loss.
        num_devices: how many the stages are spread over.
        micro_batches: samples of each.
        chunks: views of each chunk; one chunk takes all views at once.
        cut: first stage of every device but the first.
        schedule: `1f1b`, `zero-bubble` or `fill-drain` (all forward, then all backward).
        views_in_chunks: end pieces where views end even for a single chunk (by default, if there are more).

    Raises:
        ValueError: see `pipeline_pieces`.
    """
    if views_in_chunks is None:
        views_in_chunks = len(chunks) > 1
    pieces = pipeline_pieces(
        stages, num_devices, cut, views_in_chunks=views_in_chunks, weights_later=schedule == "zero-bubble"
    )
    calls = pipeline_calls(stages, pieces, micro_batches, len(chunks))
    sizes = tuple(micro_batches)
    program = Program("pipeline", num_devices, sizes, tuple(chunks), calls, ())
    orders = _orders(program, schedule, _proportional(sizes, tuple(chunks)))
    return replace(program, orders=orders)


def pipeline_calls(
    stages: Sequence[Stage], pieces: Sequence[Piece], micro_batches: Sequence[int], num_chunks: int
) -> tuple[Call, ...]:
    """Give the calls of whole pieces, micro-batch after micro-batch and chunk after chunk of views."""
    by_name = {stage.name: stage for stage in stages}
    members = {piece: [by_name[name] for name in piece.stages] for piece in pieces}
    others = {piece: [stage for other in pieces if other != piece for stage in members[other]] for piece in pieces}
    calls: list[Call] = []
    for micro_batch, size in enumerate(micro_batches):
        for piece in pieces:
            is_viewed = any(stage.views != "none" for stage in members[piece])
            for chunk in range(num_chunks) if is_viewed else (None,):
                outputs = _outputs(members[piece], others[piece], micro_batch, chunk, num_chunks)
                weight = size / sum(micro_batches) if any(key.tensor == LOSS for key in outputs) else 0.0
                inputs = _inputs(members[piece], stages, micro_batch, chunk, num_chunks)
                calls.append(Call(piece, micro_batch, chunk, inputs, outputs, weight))
    return tuple(calls)


def _check_cut(stages: Sequence[Stage], num_devices: int, cut: Sequence[str]) -> None:
    names = [stage.name for stage in stages]
    for name in cut:
        if name not in names:
            hint = nearest_hint("did you mean {}? ", name, names, cutoff=0.3)
            raise ValueError(f"split.cut: no stage is called {name} ({hint}there are: {', '.join(names[:-1])})")
    positions = [names.index(name) for name in cut]
    if len(cut) != num_devices - 1 or positions != sorted(set(positions)) or 0 in positions:
        raise ValueError(
            f"split.cut: {list(cut)} is not possible for {num_devices} devices (name the first stage of each device "
            f"but the first, {num_devices - 1} in all, in the order of the stages, not {names[0]})"
        )
    for position in positions:
        if stages[position].views == "fold" and stages[position - 1].views == "fold":
            raise ValueError(
                f"split.cut: {names[position]} is inside the recurrent unit, whose stages are run view by view "
                "(cut before its first stage or after its last)"
            )


def _inputs(
    members: Sequence[Stage], stages: Sequence[Stage], micro_batch: int, chunk: int | None, num_chunks: int
) -> tuple[Input, ...]:
    """Give what a piece reads: each tensor once, whole; what its own fold left at the chunk before too."""
    fold_outputs = {tensor.name for stage in stages if stage.views == "fold" for tensor in stage.outputs}
    found: dict[str, Input] = {}
    made: set[str] = set()
    for stage in members:
        for tensor in (read.tensor for read in stage.inputs):
            if tensor.name in made or tensor.name in found:
                continue
            if stage.views == "fold" and tensor.name in fold_outputs:  # a state: made later in the same view
                if chunk:
                    key = Key(tensor.name, micro_batch, chunk - 1)
                    found[tensor.name] = Input(tensor, (Fragment(key),))
                continue
            found[tensor.name] = Input(tensor, (Fragment(_key(tensor, fold_outputs, micro_batch, chunk, num_chunks)),))
        made |= {tensor.name for tensor in stage.outputs}
    return tuple(found.values())


def _key(tensor: NamedTensor, fold_outputs: set[str], micro_batch: int, chunk: int | None, num_chunks: int) -> Key:
    if "V" in tensor.axes:
        return Key(tensor.name, micro_batch, chunk)
    return Key(tensor.name, micro_batch, num_chunks - 1 if tensor.name in fold_outputs else None)


def _outputs(
    members: Sequence[Stage], others: Sequence[Stage], micro_batch: int, chunk: int | None, num_chunks: int
) -> tuple[Key, ...]:
    """Give what a piece makes that others read, that its fold needs at the next chunk, or that is the loss."""
    read_elsewhere = {read.tensor.name for stage in others for read in stage.inputs}
    states: set[str] = set()
    made: set[str] = set()
    for stage in members:
        if stage.views == "fold":
            states |= {read.tensor.name for read in stage.inputs} - made
        made |= {tensor.name for tensor in stage.outputs}
    keys = []
    for stage in members:
        for tensor in stage.outputs:
            is_last_chunk = chunk is None or chunk == num_chunks - 1
            is_state = tensor.name in states and not is_last_chunk
            is_read = tensor.name in read_elsewhere and (is_last_chunk or stage.views == "each")
            if is_state or is_read or tensor.name == LOSS:
                keys.append(Key(tensor.name, micro_batch, None if stage.views == "none" else chunk))
    return tuple(keys)


def _proportional(sizes: tuple[int, ...], chunks: tuple[int, ...]) -> CallCost:
    """Take backward as twice forward, half of it for weights, and every stage and device as equally fast."""

    def cost(call: Call, kind: Kind) -> float:
        views = 1.0 if call.chunk is None else chunks[call.chunk] / sum(chunks)
        return sizes[call.micro_batch] * views * (2 if kind == "backward" and not call.piece.weights_later else 1)

    return cost


def _orders(program: Program, schedule: str, cost: CallCost) -> tuple[tuple[Task, ...], ...]:
    """Play the step: whenever a device is free it takes the backward run that is ready, else the next forward run, else
    gradients of weights that were left for later.

    All kinds stay in the order of micro-batches, so sums of gradients do not depend on the costs. A device has at
    most so many micro-batches under way as devices follow it, and two: one more than strict 1F1B, so that a task
    that takes a little longer does not stop its neighbour.
    """
    queues = [_Queues(program, device, schedule) for device in range(program.num_devices)]
    orders: list[list[Task]] = [[] for _ in queues]
    ends: dict[Task, float] = {}
    free = [0.0] * program.num_devices
    while any(map(_Queues.is_left, queues)):
        candidates = []
        for device, queue in enumerate(queues):
            for preference, task in enumerate(queue.options()):
                ready = [ends.get(need) for need in program.needs(task)]
                if None not in ready:
                    start = max([free[device], *(end for end in ready if end is not None)])
                    candidates.append((start, preference, device, task))
        assert candidates, "no task can go on"
        start, _, device, task = min(candidates, key=lambda found: found[:3])
        queues[device].take(task)
        orders[device].append(task)
        free[device] = ends[task] = start + cost(program.calls[task.call], task.kind)
    return tuple(map(tuple, orders))


class _Queues:
    """What is left for a device to do: runs of each kind, in the order of micro-batches."""

    def __init__(self, program: Program, device: int, schedule: str) -> None:
        self._program, self._schedule = program, schedule
        self._most_under_way = (
            len(program.micro_batches) if schedule == "fill-drain" else program.num_devices - device + 1
        )
        own = [number for number, call in enumerate(program.calls) if call.piece.device == device]
        backward = sorted(own, key=lambda number: (program.calls[number].micro_batch, -number))
        weights = [number for number in backward if program.calls[number].piece.weights_later]
        self._left: dict[Kind, list[int]] = {"backward": backward, "forward": own, "weights": weights}

    def is_left(self) -> bool:
        """Say whether anything is."""
        return any(self._left.values())

    def options(self) -> list[Task]:
        """Give what may come next, the most urgent first."""
        firsts = {kind: queue[0] for kind, queue in self._left.items() if queue}
        if "forward" in firsts and self._schedule == "fill-drain":
            firsts.pop("backward")
        if "forward" in firsts and self._under_way(firsts) >= self._most_under_way:
            del firsts["forward"]
        return [Task(number, kind) for kind, number in firsts.items()]

    def take(self, task: Task) -> None:
        """Note that a run is placed."""
        self._left[task.kind].remove(task.call)

    def _under_way(self, firsts: Mapping[Kind, int]) -> int:
        """Count the micro-batches begun and not ended before the next forward run."""
        micro_batch = {kind: self._program.calls[number].micro_batch for kind, number in firsts.items()}
        oldest = min(micro_batch.get(kind, micro_batch["forward"]) for kind in ("backward", "weights"))
        return micro_batch["forward"] - oldest
