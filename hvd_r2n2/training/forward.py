"""The loss of a batch on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.common.wide_linear import active_work
from hvd_r2n2.config import Config
from hvd_r2n2.training.precision import autocast


def mean_loss(config: Config, stages: Sequence[Stage], loss_stage: Stage, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean loss of a batch, ready for backward.

    Args:
        config: gives the arithmetic, and whether activations are computed again in backward.
        stages: the network's, all on one device.
        loss_stage: from its outputs and the target to the loss.
        inputs: network inputs and target by name.
    """
    everything = (*stages, loss_stage)
    if config.train.recompute:
        everything = tuple(replace(stage, module=_Recomputed(stage.module)) for stage in everything)
    device = next(tensor.device for tensor in inputs.values())
    # As torch asks for in CUDA graphs: what autocast keeps would be memory of the graph that is being captured.
    with autocast(config.train.dtype, device, caches=not config.train.cuda_graphs):
        return run_stages(everything, inputs, {"loss"})["loss"]


def samples_axis(stages: Sequence[Stage], loss_stage: Stage, name: str) -> int:
    """Return the number of the axis of samples of a network input or target."""
    return next(
        read.tensor.axes.index("B")
        for stage in (*stages, loss_stage)
        for read in stage.inputs
        if read.tensor.name == name
    )


class _Recomputed(torch.nn.Module):
    """A stage that keeps its inputs alone for backward, and computes the rest again there."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Give the module's outputs."""
        work = active_work()

        def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
            # A GPU's backward pass, of which there is one, and what it computes again run in a thread of autograd's.
            return nullcontext(), nullcontext() if work is None else work.active()

        # Stages draw no random numbers: dropout masks are inputs.
        result: Tensor | tuple[Tensor, ...] = checkpoint(
            self.module, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )
        return result
