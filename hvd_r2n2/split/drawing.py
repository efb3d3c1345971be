"""Programs and what became of them as plain text: a table of tasks, and a row of time for each device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvd_r2n2.split.program import Fragment, Key, Program, Range, Task, TaskTime, run_in_order

FORWARD = "0123456789"
BACKWARD = "abcdefghij"
WEIGHTS = "ABCDEFGHIJ"
OPTIMIZER = "*"
IDLE = "."
LEGEND = "0 1 2 … forward of a micro-batch, a b c … its backward run, A B C … gradients of weights apart from it, \
* optimizer, . idle"


def program_table(program: Program) -> str:
    """Write a program as a table: one row a task, in an order in which they could run one after another.

    What a forward run reads has the part in brackets and, where only a range is read, the axis and the range; what a
    backward run reads are gradients of its outputs. ``from 1`` stands behind what another device gives.
    """
    rows = [("order", "device", "call", "run", "reads")]
    for number, task in enumerate(run_in_order(program)):
        reads = {"forward": _values, "backward": _gradients, "weights": lambda *_: []}[task.kind](program, task)
        name = program.calls[task.call].name
        rows.append((str(number), str(program.device_of(task)), name, task.kind, ", ".join(reads)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


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


def timeline(times: Sequence[TaskTime], num_devices: int, width: int = 100) -> str:
    """Draw what ran when: a row a device, time from left to right in `width` characters, and how busy it was.

    A character shows what took most of its time: the micro-batch going forward (0 1 2 …) or backward (a b c …), or what
    is left of that (A B C …; after ten the signs begin again), the optimizer (*), or nothing (.).
    """
    end_s = max((time.end_s for time in times), default=0.0)
    column_s = end_s / width or 1.0
    rows = []
    for device in range(num_devices):
        own = [time for time in times if time.device == device]
        busy = sum(time.end_s - time.start_s for time in own) / (column_s * width)
        rows.append(f"device {device} |{_row(own, column_s, width)}| {busy:4.0%} busy")
    return "\n".join([*rows, f"{end_s:.4g} s; {LEGEND}"])


def _row(times: Sequence[TaskTime], column_s: float, width: int) -> str:
    """Draw one device's time."""
    shares: list[dict[str, float]] = [{IDLE: column_s} for _ in range(width)]
    for time in times:
        sign = _sign(time)
        first = min(int(time.start_s / column_s), width - 1)
        last = min(int(time.end_s / column_s), width - 1)
        for column in range(first, last + 1):
            share = min(time.end_s, (column + 1) * column_s) - max(time.start_s, column * column_s)
            shares[column][sign] = shares[column].get(sign, 0.0) + share
            shares[column][IDLE] -= share
    return "".join(max(share, key=share.__getitem__) for share in shares)


def _sign(time: TaskTime) -> str:
    if time.kind == "optimizer":
        return OPTIMIZER
    signs = {"forward": FORWARD, "backward": BACKWARD, "weights": WEIGHTS}[time.kind]
    return signs[time.micro_batch % len(signs)]


def _values(program: Program, task: Task) -> list[str]:
    """Name what a forward run reads."""
    own = program.device_of(task)
    found = []
    for entry in program.calls[task.call].inputs:
        for fragment in entry.fragments:
            maker = None if fragment.key is None else program.producers.get(fragment.key)
            device = own if maker is None else program.calls[maker].piece.device
            found.append(_fragment(fragment) + (f" from {device}" if device != own else ""))
        if not entry.fragments:
            found.append(f"no {entry.tensor.name}")
    return found


def _gradients(program: Program, task: Task) -> list[str]:
    """Name what a backward run reads."""
    own = program.device_of(task)
    found = []
    for key in program.calls[task.call].outputs:
        devices = sorted({program.calls[number].piece.device for number, _, _ in program.consumers[key]})
        if devices:
            found.append(f"grad {_key(key)}" + (f" from {' '.join(map(str, devices))}" if devices != [own] else ""))
    return found


def _key(key: Key) -> str:
    part = "" if key.part is None else f"[{key.part}]"
    chunk = "" if key.chunk is None else f" v{key.chunk}"
    return f"{key.tensor}{part}{chunk}"


def _fragment(fragment: Fragment) -> str:
    """Name what is taken of what, such as ``hidden[0] v1 D-1:``."""
    name = "zeros" if fragment.key is None else _key(fragment.key)
    if fragment.span is None:
        return name
    if isinstance(fragment.span, Range):
        start, end = fragment.span.start, fragment.span.start + fragment.span.length
        return f"{name} {fragment.axis}{start}:{end or ''}"
    return f"{name} {fragment.axis} {fragment.span.part + 1}/{fragment.span.parts}"
