"""The `kernel` strategy: every device computes its share of the output channels of every layer.

    device 0   conv1[0]   conv2[0]   ...          A stage that reads all channels takes the parts of all devices;
    device 1   conv1[1]   conv2[1]   ...   loss   one that reads its own, or its own tower's, takes its device's.

Source: Krizhevsky, Sutskever and Hinton 2012, where only some layers read both halves. Here stages are given what they
read: the numbers are those of one device, whether the network was made with towers or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from hvd_r2n2.common.stages import NUM_TOWERS, Read, Stage
from hvd_r2n2.split.cutting import Keys, Visit, divisors, first_keys, owners, row_axes, visits
from hvd_r2n2.split.program import LOSS, Call, Fragment, Input, Key, Piece, Program, Share, one_at_a_time


def kernel_program(stages: Sequence[Stage], num_devices: int, micro_batches: Sequence[int], num_views: int) -> Program:
    """Cut every stage by output channels, but for the loss, which the last device computes whole.

    Consecutive fold stages have a call a view, whose chunk is the view, any other stage one for all views.

    Args:
        stages: those of the network, then the loss.
        num_devices: how many parts each stage has.
        micro_batches: samples of each.
        num_views: pictures of each sample.

    Raises:
        ValueError: the network cannot be cut so; see `check_kernel`.
    """
    check_kernel(stages, num_devices)
    pieces = [_pieces(stage, num_devices) for stage in stages]
    calls: list[Call] = []
    for micro_batch, samples in enumerate(micro_batches):
        keys = first_keys(stages, micro_batch)
        for visit in visits(stages, micro_batch, num_views):
            stage = stages[visit.stage]
            weight = samples / sum(micro_batches) if stage.name == LOSS else 0.0
            new = [_call(stage, piece, visit, keys, weight) for piece in pieces[visit.stage]]
            calls += new
            for same in zip(*(call.outputs for call in new), strict=True):
                keys[same[0].tensor] = same
    orders = one_at_a_time(calls, num_devices)
    return Program("kernel", num_devices, tuple(micro_batches), (num_views,), tuple(calls), orders)


def check_kernel(stages: Sequence[Stage], num_devices: int) -> None:
    """Check that stages can be cut by channels over a number of devices.

    Every layer's channels must be divisible by it. Only of the last layer, whose size the data give (classes), need
    the shares not be equal.

    Raises:
        ValueError: they cannot; says what would be right.
    """
    hidden, last = stages[:-2], stages[-2]
    sizes = [(stage, *axis) for stage in hidden for axis in _channels(stage)]
    num_outputs = min((size for _, size in _channels(last)), default=2 * num_devices)
    common = gcd(*(size for *_, size in sizes))
    for stage, what, size in sizes:
        if size % num_devices:
            raise ValueError(
                f"kernel split of {stage.name} over {num_devices} devices: {size} output {what} are not divisible by "
                f"{num_devices} (use {divisors(common, min(2 * num_devices, num_outputs))})"
            )
    if num_outputs < num_devices:
        raise ValueError(
            f"kernel split of {last.name} over {num_devices} devices: it has only {num_outputs} outputs "
            f"(use {divisors(common, num_outputs)})"
        )
    for stage in stages:
        if num_devices not in (1, NUM_TOWERS) and any(read.channels == "group" for read in stage.inputs):
            raise ValueError(
                f"kernel split of {stage.name} over {num_devices} devices: it reads its own tower only, and the "
                f"network has {NUM_TOWERS} towers (use {NUM_TOWERS} devices)"
            )


def _channels(stage: Stage) -> list[tuple[str, int]]:
    """Give what every module of a stage has to cut: channels or features, and how many."""
    for tensor in stage.outputs:
        if tensor.channel_axis is None:
            raise ValueError(
                f"kernel split of {stage.name}: its output {tensor.name} of axes {tensor.axes!r} has neither channels "
                "nor features (use another strategy)"
            )
    found = []
    for module in owners(stage):
        axes = row_axes(module)
        if not axes.keys() & {"C", "F"}:
            raise ValueError(
                f"kernel split of {stage.name}: it is not known which rows of the weights of {type(module).__name__} "
                "are which channels (give it row_axes)"
            )
        found.append(("channels", axes["C"]) if "C" in axes else ("features", axes["F"]))
    return found


def _pieces(stage: Stage, parts: int) -> list[Piece]:
    if stage.name == LOSS:
        return [Piece(LOSS, (LOSS,), parts - 1)]
    return [Piece(f"{stage.name}[{part}]", (stage.name,), part, "channels", part, parts) for part in range(parts)]


def _call(stage: Stage, piece: Piece, visit: Visit, keys: Keys, weight: float) -> Call:
    reads = stage.inputs if piece.cut else [Read(tensor) for tensor in dict.fromkeys(r.tensor for r in stage.inputs)]
    inputs = tuple(_input(read, keys[read.tensor.name], stage, piece, visit) for read in reads)
    outputs = visit.keys(stage.outputs, piece.part if piece.cut else None)
    return Call(piece, visit.micro_batch, visit.chunk, inputs, outputs, weight)


def _input(read: Read, keys: tuple[Key, ...], stage: Stage, piece: Piece, visit: Visit) -> Input:
    tensor, axis = read.tensor, read.tensor.channel_axis
    is_network_input = keys != () and keys[0].part is None
    if is_network_input and read.channels == "own":
        whole = visit.fragment(keys[0], tensor)
        if axis is None or whole.axis is not None:
            raise ValueError(
                f"kernel split of {stage.name}: a part of the network's input {tensor.name} of axes {tensor.axes!r} is "
                "no range of channels alone (let a stage before read all of it)"
            )
        return Input(tensor, (Fragment(whole.key, axis, Share(piece.part, piece.parts)),))
    if not is_network_input and read.channels != "all":
        keys = keys[piece.part : piece.part + 1]
    return Input(tensor, tuple(visit.fragment(key, tensor) for key in keys), axis if len(keys) > 1 else None)
