"""CUDA graphs: forward and backward passes that are captured once and then started by one call.

A step of these networks is some hundred kernels, many of them short; a graph spares the host to start each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config
from hvd_r2n2.models import Network
from hvd_r2n2.split import TaskTime
from hvd_r2n2.training.engine import OneDevice

Function = Callable[[Mapping[str, Tensor]], Tensor]
Signature = tuple[tuple[str, torch.Size, torch.dtype], ...]

_WARM_UP = 3
"""Runs before a capture, as torch's documentation has them: libraries make their memory and choose kernels there."""


def signature(inputs: Mapping[str, Tensor]) -> Signature:
    """Return what a graph depends on: name, shape and type of each input."""
    return tuple((name, inputs[name].shape, inputs[name].dtype) for name in sorted(inputs))


class Graphs:
    """A function of tensors on one GPU, as a CUDA graph for each shape of its inputs.

    The function is run a few times, and captured, at the first inputs of each shape; afterwards its kernels are
    replayed on copies of the inputs. It must not wait for the GPU. What it changes besides its result, such as
    gradients, must lie in memory that was there before and stays.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        """Capture nothing yet."""
        self._function = function
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._captured: dict[Signature, _Captured] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the function's result, which is overwritten by the next call."""
        key = signature(inputs)
        if key not in self._captured:
            first = next(iter(self._captured.values()), None)
            self._captured[key] = _Captured(self._function, inputs, self._stream, first)
        return self._captured[key].replay(inputs)


class _Captured:
    """The graph of one shape, and the memory of its inputs and its result."""

    def __init__(
        self, function: Function, inputs: Mapping[str, Tensor], stream: torch.cuda.Stream, first: _Captured | None
    ) -> None:
        """Capture on `stream`, as `first` was, whose memory it shares.

        Graphs may do so that never run at the same time, and whose results are read before another one runs.
        """
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function(self._inputs)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        pool = None if first is None else first._graph.pool()
        # Other threads pin memory for the batches to come, which is an error in the mode that is the default.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._result = function(self._inputs)

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run it on other inputs of the same shape."""
        for name, tensor in self._inputs.items():
            tensor.copy_(inputs[name])
        self._graph.replay()
        return self._result


class GraphedDevice(OneDevice):
    """The plain network on one GPU, its forward and backward passes in CUDA graphs.

    Gradients lie in the same memory all the time, and leave for the other ranks after the backward pass.
    """

    sends_by_hooks = False

    def __init__(self, config: Config, model: Network, loss_stage: Stage, communicator: Communicator) -> None:
        """Take the network, on its GPU already.

        Raises:
            ValueError: it is not on a GPU.
        """
        device = next(model.parameters()).device
        if device.type != "cuda":
            raise ValueError(
                f"train.cuda_graphs: needs a GPU, but this rank has {device} (use train.cuda_graphs=false)"
            )
        super().__init__(config, model, loss_stage, communicator)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._graphs = Graphs(self._new_gradients, device)
        self._largest = DeviceMemory(0, 0, 0, 0, 0)

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return the GPU's; the memory of graphs is seen when they are captured, and counts from then on."""
        (found,) = super().memory()
        saved = max(found.saved, self._largest.saved)
        self._largest = replace(found, saved=saved, allocated=max(found.allocated or 0, self._largest.allocated or 0))
        return (self._largest,)

    def _clear_gradients(self) -> None:
        """Do nothing: each graph begins with that."""

    def _gradients(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, tuple[TaskTime, ...], int]:
        return self._graphs(inputs), (), 0

    def _new_gradients(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Replace the gradients; return the mean loss."""
        self.optimizers[0].zero_grad(set_to_none=False)
        return self._add_gradients(inputs)
