"""What tests of programs share: stages without arithmetic, a program's reads in a short notation, when tasks run."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.split.program import Call, Fragment, Program, Range, Task, TaskTime, run_in_order


def named(text: str) -> NamedTensor:
    """Make a tensor of ``name:AXES``."""
    name, axes = text.split(":")
    return NamedTensor(name, axes)


def stage(name: str, reads: list[Read | str], outputs: list[str], module: nn.Module | None = None) -> Stage:
    """Make a stage; a read that is only a name is of all channels and no planes around."""
    inputs = tuple(Read(named(read)) if isinstance(read, str) else read for read in reads)
    return Stage(name, module or nn.Identity(), inputs, tuple(map(named, outputs)))


def own(text: str) -> Read:
    """Read the same channels."""
    return Read(named(text), "own")


def planes(text: str, before: int, after: int) -> Read:
    """Read planes around one's own."""
    return Read(named(text), planes=(before, after))


def forward_table(program: Program) -> list[str]:
    """Write a row a call: device, name, and each input's fragments joined by ``+``; ``-`` for a missing state."""
    return [f"{call.piece.device} {call.name}: {', '.join(_inputs(call))}" for call in program.calls]


def expected_times(program: Program, seconds: Callable[[Task], float]) -> list[TaskTime]:
    """Give when every task runs if it takes `seconds` and handing over takes none."""
    ends: dict[Task, float] = {}
    free = [0.0] * program.num_devices
    times = []
    for task in run_in_order(program):
        call, device = program.calls[task.call], program.device_of(task)
        start = max([free[device], *(ends[need] for need in program.needs(task))])
        free[device] = ends[task] = start + seconds(task)
        times.append(TaskTime(call.name, device, task.kind, call.micro_batch, start, ends[task]))
    return times


def _inputs(call: Call) -> list[str]:
    return [
        "+".join(map(_fragment, entry.fragments)) + (f" on {entry.axis}" if entry.axis else "") or "-"
        for entry in call.inputs
    ]


def _fragment(fragment: Fragment) -> str:
    name = "0"
    if fragment.key is not None:
        part = "" if fragment.key.part is None else str(fragment.key.part)
        chunk = "" if fragment.key.chunk is None else f"@{fragment.key.chunk}"
        name = f"{fragment.key.tensor}{part}{chunk}"
    if fragment.span is None:
        return name
    if isinstance(fragment.span, Range):
        return f"{name}({fragment.axis} {fragment.span.start},{fragment.span.length})"
    return f"{name}({fragment.axis} {fragment.span.part}/{fragment.span.parts})"


def check_common(program: Program) -> None:
    """Assert what holds for every program of parts: it can run, keys are made once and before they are read."""
    program.check()
    assert abs(sum(call.weight for call in program.calls) - 1) < 1e-12
    made: set[object] = set()
    for call in program.calls:
        for key in [fragment.key for entry in call.inputs for fragment in entry.fragments if fragment.key is not None]:
            assert key in made or (key.part is None and key not in program.producers), f"{call.name} reads {key}"
        assert not made & set(call.outputs)
        made |= set(call.outputs)
    names = {call.piece.name: call.piece for call in program.calls}
    assert all(names[call.piece.name] == call.piece for call in program.calls), "a name for two pieces"
