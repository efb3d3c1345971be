"""Running a network on one device: the loss of a batch, evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hvd_r2n2.common.kept_weights import weights_stay
from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.common.wide_linear import active_work
from hvd_r2n2.config import Config
from hvd_r2n2.training.precision import autocast


def mean_loss(config: Config, stages: Sequence[Stage], inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean loss of a batch, ready for backward.

    Args:
        config: gives the arithmetic, and whether activations are computed again in backward.
        stages: the network's and that of the loss, all on one device.
        inputs: network inputs and target by name.
    """
    if config.train.recompute:
        stages = [replace(stage, module=_Recomputed(stage.module)) for stage in stages]
    device = next(tensor.device for tensor in inputs.values())
    # As torch asks for in CUDA graphs: what autocast keeps would be memory of the graph that is being captured.
    with autocast(config.train.dtype, device, caches=not config.train.cuda_graphs):
        return run_stages(stages, inputs, {"loss"})["loss"]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Have the network in evaluation mode within the block, in which no weight may change."""
    was_training = model.training
    model.eval()
    try:
        with weights_stay():
            yield
    finally:
        model.train(was_training)


def cut_samples(inputs: Mapping[str, Tensor], stages: Sequence[Stage], parts: int) -> list[dict[str, Tensor]]:
    """Cut a batch, inputs and target by the names that the stages have for them, into so many with fewer samples."""
    axes = {read.tensor.name: read.tensor.axes for stage in stages for read in stage.inputs}
    chunks = {name: tensor.chunk(parts, dim=axes[name].index("B")) for name, tensor in inputs.items()}
    return [{name: chunk[number] for name, chunk in chunks.items()} for number in range(parts)]


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
