"""Where the time of a step went: torch's operations, by kind and one by one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler import profile

# Of a convolution that gives its sum activated, or with something added, that is part of it.
CONVOLUTION, CONVOLUTION_BACKWARD = "convolution forward", "convolution backward"
TRANSPOSED, TRANSPOSED_BACKWARD = "transposed convolution forward", "transposed convolution backward"
LINEAR, ACTIVATION, POOLING = "linear", "activation", "pooling"
ELEMENTWISE, LOSS, OPTIMIZER, OTHER = "addition, copies", "loss", "optimizer", "other"
KINDS = (
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    TRANSPOSED,
    TRANSPOSED_BACKWARD,
    LINEAR,
    ACTIVATION,
    POOLING,
    ELEMENTWISE,
    LOSS,
    OPTIMIZER,
    OTHER,
)
"""In the order of tables; `other` has what belongs to no operation, too: Python, and waiting."""

# The first that is part of an operation's name says its kind.
_WORDS = (
    *((word, LOSS) for word in ("log_sigmoid", "cross_entropy", "log_softmax", "nll_loss")),
    *((word, LINEAR) for word in ("mm", "linear", "matmul", "gemm", "dot")),
    *((word, ACTIVATION) for word in ("leaky_relu", "relu", "threshold", "sigmoid", "tanh", "dropout", "softplus")),
    *((word, POOLING) for word in ("pool",)),
    *((word, OPTIMIZER) for word in ("_fused_adam", "_fused_sgd", "_foreach", "vector_norm", "Optimizer.")),
    *((word, ELEMENTWISE) for word in ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::neg", "aten::lerp")),
    *((word, ELEMENTWISE) for word in ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero", "aten::sum")),
    *((word, ELEMENTWISE) for word in ("aten::index", "aten::flip", "AccumulateGrad")),
)
_LOSS_NODES = ("LogSigmoid", "LogSoftmax", "NllLoss", "BinaryCrossEntropy")
_SHOWN_SHAPES = 3
_MEMORY = "[memory]"
"""What torch calls events of memory that is taken or given back."""


@dataclass(frozen=True)
class Operation:
    """All calls of an operation with tensors of the same shapes within a step."""

    name: str
    shapes: str
    """Of the first inputs, such as `8×96×127×127, 96×3×7×7`."""
    kind: str
    calls: int
    seconds: float
    """In the operation itself, without the operations that it calls; on a GPU the time of its kernels."""


@dataclass(frozen=True)
class Profile:
    """Where the time of a step went."""

    step_s: float
    """How long it took under the profiler."""
    peak_bytes: int
    """Most that its tensors took at a time on the device, beyond what was there before."""
    operations: tuple[Operation, ...]
    """Those that took longest come first."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Give the seconds of each kind, which add up to `step_s` (or, of kernels side by side, to their sum)."""
        found = dict.fromkeys(KINDS, 0.0)
        for operation in self.operations:
            found[operation.kind] += operation.seconds
        found[OTHER] += max(0.0, self.step_s - sum(found.values()))
        return found

    @property
    def shares(self) -> Mapping[str, float]:
        """Give the share of each kind."""
        total = sum(self.seconds.values())
        return {kind: seconds / total for kind, seconds in self.seconds.items()}


def profile_step(step: Callable[[], object], device: torch.device) -> Profile:
    """Take a step under torch's profiler.

    On a GPU, kernels that no operation has launched, such as those of CUDA graphs, count as `other`.
    """
    is_gpu = device.type == "cuda"
    how: dict[str, Any] = {"use_kineto": True, "use_device": "cuda" if is_gpu else None}
    # What `torch.profiler` is made of, which would import the compiler: 2 s for each process that is watched.
    with profile(**how, record_shapes=True, profile_memory=True) as profiler:
        start = time.perf_counter()
        step()
        if is_gpu:
            torch.cuda.synchronize(device)
        step_s = time.perf_counter() - start
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in profiler.function_events or ():
        # A kernel is an event too; its time is that of the operation which has launched it.
        if event.device_type == DeviceType.CPU and event.name != _MEMORY:
            seconds = (event.self_device_time_total if is_gpu else event.self_cpu_time_total) / 1e6
            found[event.name, _shapes(event), kind_of(_names(event), is_transposed(event))].append(seconds)
    operations = (Operation(*key, len(times), sum(times)) for key, times in found.items())
    in_order = tuple(sorted(operations, key=lambda one: one.seconds, reverse=True))
    return Profile(step_s, _peak_bytes(profiler, device), in_order)


def kind_of(names: Sequence[str], is_transposed: bool = False) -> str:
    """Return the kind of an operation.

    Args:
        names: its own, then that of the operation or the node of the backward graph that has called it, and so on.
        is_transposed: of a convolution, whether it is the transposed one.
    """
    if any(name.startswith("Optimizer.") for name in names):
        return OPTIMIZER
    own = names[0]
    kind = next((kind for word, kind in _WORDS if word in own), None)
    # Some convolutions, and sums over their gradients, are computed as products of matrices.
    if kind in (None, LINEAR) and any("conv" in name.lower() for name in names):
        is_backward = any("backward" in name.lower() for name in names)
        if is_transposed:
            return TRANSPOSED_BACKWARD if is_backward else TRANSPOSED
        return CONVOLUTION_BACKWARD if is_backward else CONVOLUTION
    if kind in (None, ELEMENTWISE) and any(node in name for name in names for node in _LOSS_NODES):
        return LOSS
    return kind or OTHER


def is_transposed(event: Any) -> bool:
    """Say whether an operation is, or is part of, a transposed convolution."""
    while event is not None:
        if event.name in _TRANSPOSED_ARGUMENT:
            # torch records the arguments that are no tensors.
            position, values = _TRANSPOSED_ARGUMENT[event.name], event.concrete_inputs
            return len(values) > position and values[position] is True
        if "conv" in event.name and "transpose" in event.name:
            return True
        event = event.cpu_parent
    return False


_TRANSPOSED_ARGUMENT = {"aten::convolution": 6, "aten::_convolution": 6, "aten::convolution_backward": 7}


def _peak_bytes(profiler: profile, device: torch.device) -> int:
    """Add up what the profiler has recorded of memory that was taken and given back."""
    assert profiler.kineto_results is not None
    wanted = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    recorded: list[Any] = profiler.kineto_results.events()
    events = [event for event in recorded if event.name() == _MEMORY and event.device_type() == wanted]
    changes = [int(event.nbytes()) for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes, initial=0))


def _names(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _shapes(event: Any) -> str:
    tensors = [shape for shape in event.input_shapes or () if shape]
    return ", ".join("×".join(map(str, shape)) for shape in tensors[:_SHOWN_SHAPES])
