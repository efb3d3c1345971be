"""Averages gradients over ranks while backward still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from hvd_r2n2.comm.communicator import Communicator


class GradientAverager:
    """Hands each parameter's gradient to the communicator as soon as it is complete.

    By hooks: `arm` before the backward pass of the step's last micro-batch, `finish` after it; without `arm`, gradients
    only accumulate. Without hooks: `start` with each name whose gradient is complete, from any thread. Horovod's
    DistributedOptimizer does the same by wrapping the optimizer; keeping the two apart leaves the optimizer a plain
    torch one, whose state is saved and loaded as it is.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        communicator: Communicator,
        *,
        by_hooks: bool = True,
    ) -> None:
        """Take the parameters, by names that are the same on all ranks."""
        self._communicator = communicator
        self._parameters = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
        self._handles: dict[str, Any] = {}
        self._is_armed = False
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._hook(name))  # type: ignore[no-untyped-call]
            for name, parameter in self._parameters.items()
            if by_hooks
        ]

    def arm(self) -> None:
        """Send gradients off as the next backward pass completes them."""
        self._is_armed = True

    def finish(self) -> None:
        """Wait until every gradient is the mean over all ranks."""
        assert self._is_armed or not self._hooks, "finish() without arm()"
        for name, parameter in self._parameters.items():
            if name not in self._handles:  # not used in this step, but another rank may have used it
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.start(name)
        for handle in self._handles.values():
            self._communicator.wait(handle)
        self._handles.clear()
        self._is_armed = False

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[torch.Tensor], None]:
        def start_if_armed(_: torch.Tensor) -> None:
            if self._is_armed:
                self.start(name)

        return start_if_armed

    def start(self, name: str) -> None:
        """Send a complete gradient off."""
        parameter = self._parameters[name]
        assert parameter.grad is not None
        if not parameter.grad.is_contiguous():  # Horovod refuses channels_last
            parameter.grad = parameter.grad.contiguous()
        assert name not in self._handles, f"{name}: a second backward pass after arm()"
        self._handles[name] = self._communicator.average_async(parameter.grad, name)
