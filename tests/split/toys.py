"""Small stage lists of every kind, for tests of the split that need no real network.

Axes as in hvd_r2n2/common/stages.py: V views, B samples, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import NamedTensor, Read, Stage, run_stages

LOSS = NamedTensor("loss", "")


class Dense(nn.Linear):
    """tanh(Wx + b), plus a second input as it is."""

    def forward(self, inputs: Tensor, skip: Tensor | None = None) -> Tensor:
        """Give the features."""
        outputs = torch.tanh(super().forward(inputs))
        return outputs if skip is None else outputs + skip


class Gate(nn.Linear):
    """σ(W h + x + b): first half of a recurrent unit, with a product with the state as second output."""

    def forward(self, x: Tensor, hidden: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the gate and gate⊙h."""
        if hidden is None or own is None:
            hidden, own = x.new_zeros(*x.shape[:-1], self.weight.shape[1]), torch.zeros_like(x)
        gate = torch.sigmoid(super().forward(hidden) + x)
        return gate, gate * own


class Candidate(nn.Linear):
    """Second half: u⊙h + (1−u)⊙tanh(W(gate⊙h) + x + b)."""

    def forward(self, x: Tensor, gated: Tensor, gate: Tensor, own: Tensor | None) -> Tensor:
        """Give the new state."""
        own = torch.zeros_like(x) if own is None else own
        return gate * own + (1 - gate) * torch.tanh(super().forward(gated) + x)


class MeanSquare(nn.Module):
    """Mean over all elements of (outputs − target)²."""

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Give the loss."""
        return (outputs - target).square().mean()


class Toy(nn.Module):
    """`num_each` layers a view, a recurrent unit of two stages, `num_none` layers after it; loss against `target`."""

    def __init__(
        self, num_each: int, num_none: int, width: int, seed: int, skips: frozenset[int] = frozenset()
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.each = nn.ModuleList(Dense(width, width) for _ in range(num_each))
        self.gate, self.candidate = Gate(width, width), Candidate(width, width)
        self.none = nn.ModuleList(Dense(width, width) for _ in range(num_none))
        self.skips, self.width = skips, width
        self.double()

    def stages(self) -> tuple[Stage, ...]:
        """Give the stages, ending with the loss; a layer in `skips` adds the input of the layer before as well."""
        stages: list[Stage] = []
        tensors = [NamedTensor("x", "VBF")]

        def layer(name: str, module: nn.Module, axes: str, number: int) -> None:
            reads = [Read(tensors[-1])]
            if number in self.skips and len(tensors) > 1 and tensors[-2].axes == axes:
                reads.append(Read(tensors[-2], channels="own"))
            tensors.append(NamedTensor(name, axes))
            stages.append(Stage(name, module, tuple(reads), (tensors[-1],)))

        for number, module in enumerate(self.each):
            layer(f"each{number}", module, "VBF", number)
        x, hidden = tensors[-1], NamedTensor("hidden", "BF")
        gate, gated = NamedTensor("gate", "BF"), NamedTensor("gated", "BF")
        own = Read(hidden, channels="own")
        stages.append(Stage("unit.gate", self.gate, (Read(x, channels="own"), Read(hidden), own), (gate, gated)))
        reads = (Read(x, channels="own"), Read(gated), Read(gate, channels="own"), own)
        stages.append(Stage("unit.candidate", self.candidate, reads, (hidden,)))
        tensors.append(hidden)
        for number, module in enumerate(self.none):
            layer(f"none{number}", module, "BF", 100 + number)
        target = NamedTensor("target", "BF")
        stages.append(Stage("loss", MeanSquare(), (Read(tensors[-1]), Read(target, channels="own")), (LOSS,)))
        return tuple(stages)

    def inputs(self, num_views: int, num_samples: int) -> dict[str, Tensor]:
        """Give random inputs."""
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(num_views, num_samples, self.width, generator=generator, dtype=torch.float64)
        return {"x": x, "target": torch.randn(num_samples, self.width, generator=generator, dtype=torch.float64)}


def one_device(
    model: nn.Module, stages: tuple[Stage, ...], inputs: dict[str, Tensor], sizes: tuple[int, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give loss and every gradient by plain autograd on one device, micro-batch after micro-batch."""
    model.zero_grad()
    axes = {read.tensor.name: read.tensor.axes for stage in stages for read in stage.inputs}
    total, start = torch.zeros((), dtype=torch.float64), 0
    for size in sizes:
        part = {name: t.narrow(axes[name].index("B"), start, size) for name, t in inputs.items()}
        loss = run_stages(stages, part, {"loss"})["loss"]
        weight = size / sum(sizes)
        loss.backward(torch.full_like(loss, weight))  # type: ignore[no-untyped-call]
        total += loss.detach().double() * weight
        start += size
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, gradients
