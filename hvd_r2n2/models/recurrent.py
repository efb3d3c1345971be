"""The 3D convolutional recurrent units and the projection of the features into them.

Source: the paper, arXiv 1604.00449. Shapes: V views, B batch, F features, G gates, C channels of the hidden state,
D H W its x, y, z (4×4×4). In formulas h is the hidden state, s the cell state, x a view's projection
(Wx·fc7, one a gate), W and b a gate's convolution of h and its bias, σ the logistic function.

A state that no view before has left is None and counts as zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hvd_r2n2.common.products import product
from hvd_r2n2.common.stages import NamedTensor, Read, Stage
from hvd_r2n2.common.wide_linear import wide_linear
from hvd_r2n2.models.layers import Block, GateConv3d, GridStage, GroupedLinear, channels_last, reach
from hvd_r2n2.models.options import ReconstructionOptions

HIDDEN_SIDE = 4
NUM_GATES = 3  # of either unit

PROJECTIONS = NamedTensor("projections", "VBGCDHW")
HIDDEN = NamedTensor("hidden", "BCDHW")


class InputProjection(GroupedLinear):
    """Project the features of all views into all gates, outside the recurrence; VBF to VBGCDHW, no bias.

    Rows of the weight are indexed (gate, channel, D, H, W): every cell of the state has weights of its own.
    """

    def __init__(self, num_features: int, channels: int, groups: int, options: ReconstructionOptions) -> None:
        super().__init__(num_features, NUM_GATES * channels * HIDDEN_SIDE**3, groups, bias=False)
        self.row_axes = {"G": NUM_GATES, "C": channels, "D": HIDDEN_SIDE, "H": HIDDEN_SIDE, "W": HIDDEN_SIDE}
        self.rewrites = options.rewrites

    def forward(self, features_VBF: Tensor) -> Tensor:
        """Give the projections VBGCDHW."""
        if "views" in self.rewrites and self.groups == 1:
            return wide_linear(features_VBF, self.weight).view(*features_VBF.shape[:2], *self.row_axes.values())
        if "views" in self.rewrites:
            return self._gate_by_gate(features_VBF)
        return torch.stack([self._gate_by_gate(features_BF) for features_BF in features_VBF])

    def _gate_by_gate(self, features_F: Tensor) -> Tensor:
        num_gates, _, *sides = self.row_axes.values()
        features = features_F.chunk(self.groups, dim=-1)
        gates = []
        for weight in self.weight.chunk(num_gates):
            towers = [product(F.linear, *pair) for pair in zip(features, weight.chunk(self.groups), strict=True)]
            gates.append(torch.cat(towers, dim=-1).view(*features_F.shape[:-1], -1, *sides))
        return torch.stack(gates, dim=-5)


class _UnitStage(GridStage):
    """What the stages of the units share."""

    def __init__(self, options: ReconstructionOptions) -> None:
        super().__init__()
        self.rewrites = options.rewrites

    def start(self, projection_BGCDHW: Tensor, conv: GateConv3d) -> Tensor:
        """Give zeros of the size of the hidden state as a convolution reads it."""
        batch, _, _, planes, *sides = projection_BGCDHW.shape
        halo = conv.kernel_size[0] - 1 if self.slab else 0
        return projection_BGCDHW.new_zeros(batch, conv.weight.shape[1] * conv.groups, planes + halo, *sides)

    def laid_out(self, state_BCDHW: Tensor) -> Tensor:
        """Lay the channels of what is convolved innermost on a GPU; a CPU takes it as it is.

        Without that torch leaves grids in bfloat16 to slow kernels of its own where cuDNN is of version 9.8 to 9.14.
        """
        is_wanted = "layout" in self.rewrites and state_BCDHW.device.type == "cuda"
        return channels_last(state_BCDHW) if is_wanted else state_BCDHW


class GRUGates(_UnitStage):
    """u = σ(W_u h + x_u + b_u), r = σ(W_r h + x_r + b_r); gives u and r⊙h."""

    def __init__(self, gates: GateConv3d, options: ReconstructionOptions) -> None:
        super().__init__(options)
        self.gates = gates

    def forward(
        self, projection_BGCDHW: Tensor, hidden_BCDHW: Tensor | None, own_hidden_BCDHW: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Give the update gate and the reset hidden state; the hidden state is given twice, as the two reads say."""
        if hidden_BCDHW is None or own_hidden_BCDHW is None:
            hidden_BCDHW = self.start(projection_BGCDHW, self.gates)
            own_hidden_BCDHW = torch.zeros_like(projection_BGCDHW[:, 0])
        hidden_BCDHW = self.laid_out(hidden_BCDHW)
        if "gates" in self.rewrites:
            gates: Tensor = self.gates(hidden_BCDHW, slab=self.slab) + projection_BGCDHW[:, :2].flatten(1, 2)
            update, reset = gates.sigmoid_().chunk(2, dim=1)
        else:
            update, reset = (
                torch.sigmoid(self.gates.of_gate(hidden_BCDHW, gate, slab=self.slab) + projection_BGCDHW[:, gate])
                for gate in range(2)
            )
        return update, reset * own_hidden_BCDHW


class GRUCandidate(_UnitStage):
    """c = tanh(W_c (r⊙h) + x_c + b_c), h' = u⊙h + (1−u)⊙c."""

    def __init__(self, candidate: GateConv3d, options: ReconstructionOptions) -> None:
        super().__init__(options)
        self.candidate = candidate

    def forward(
        self,
        projection_BGCDHW: Tensor,
        reset_hidden_BCDHW: Tensor,
        update_BCDHW: Tensor,
        hidden_BCDHW: Tensor | None,
    ) -> Tensor:
        """Give the new hidden state."""
        if hidden_BCDHW is None:
            hidden_BCDHW = torch.zeros_like(update_BCDHW)
        candidate = self.candidate(self.laid_out(reset_hidden_BCDHW), slab=self.slab) + projection_BGCDHW[:, 2]
        if "gates" in self.rewrites:
            return torch.lerp(candidate.tanh_(), hidden_BCDHW, update_BCDHW)
        return update_BCDHW * hidden_BCDHW + (1 - update_BCDHW) * torch.tanh(candidate)


class LSTMStep(_UnitStage):
    """f = σ(W_f h + x_f + b_f), i = σ(W_i h + x_i + b_i), g = tanh(W_g h + x_g + b_g),
    s' = f⊙s + i⊙g, h' = tanh(s').
    """

    def __init__(self, gates: GateConv3d, options: ReconstructionOptions) -> None:
        super().__init__(options)
        self.gates = gates

    def forward(
        self, projection_BGCDHW: Tensor, hidden_BCDHW: Tensor | None, cell_BCDHW: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Give the new hidden state and the new cell state."""
        if hidden_BCDHW is None or cell_BCDHW is None:
            hidden_BCDHW = self.start(projection_BGCDHW, self.gates)
            cell_BCDHW = torch.zeros_like(projection_BGCDHW[:, 0])
        hidden_BCDHW = self.laid_out(hidden_BCDHW)
        if "gates" in self.rewrites:
            gates: Tensor = self.gates(hidden_BCDHW, slab=self.slab) + projection_BGCDHW.flatten(1, 2)
            forget, input_, candidate = gates.chunk(3, dim=1)
            cell = torch.addcmul(torch.sigmoid(forget) * cell_BCDHW, torch.sigmoid(input_), torch.tanh(candidate))
        else:
            forget, input_, candidate = (
                self.gates.of_gate(hidden_BCDHW, gate, slab=self.slab) + projection_BGCDHW[:, gate] for gate in range(3)
            )
            cell = torch.sigmoid(forget) * cell_BCDHW + torch.sigmoid(input_) * torch.tanh(candidate)
        return torch.tanh(cell), cell


class GRU3d(Block):
    """3D-GRU; two stages, as the candidate's convolution reads what the gates give. Gates are in the order update,
    reset, candidate.
    """

    def __init__(self, name: str, channels: int, kernel_size: int, options: ReconstructionOptions) -> None:
        super().__init__(name, options)
        self.gates = GateConv3d(channels, 2, kernel_size, options.groups(f"{name}.gates", channels))
        self.candidate = GateConv3d(channels, 1, kernel_size, options.groups(f"{name}.candidate", channels))

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the gates and the candidate."""
        update, reset_hidden = NamedTensor("update", "BCDHW"), NamedTensor("reset_hidden", "BCDHW")
        own_projection, own_hidden = Read(inputs, "own"), Read(HIDDEN, "own")
        return (
            Stage(
                f"{self.name}.gates",
                GRUGates(self.gates, self.options),
                (own_projection, Read(HIDDEN, reach(self.gates), self.gates.halo), own_hidden),
                (update, reset_hidden),
            ),
            Stage(
                f"{self.name}.candidate",
                GRUCandidate(self.candidate, self.options),
                (
                    own_projection,
                    Read(reset_hidden, reach(self.candidate), self.candidate.halo),
                    Read(update, "own"),
                    own_hidden,
                ),
                (HIDDEN,),
            ),
        )


class LSTM3d(Block):
    """3D-LSTM without output gate; one stage. Gates are in the order forget, input, candidate."""

    def __init__(self, name: str, channels: int, kernel_size: int, options: ReconstructionOptions) -> None:
        super().__init__(name, options)
        self.gates = GateConv3d(channels, 3, kernel_size, options.groups(name, channels))

    def stages(self, inputs: NamedTensor) -> tuple[Stage, ...]:
        """Give the unit."""
        cell = NamedTensor("cell", "BCDHW")
        reads = (Read(inputs, "own"), Read(HIDDEN, reach(self.gates), self.gates.halo), Read(cell, "own"))
        return (Stage(self.name, LSTMStep(self.gates, self.options), reads, (HIDDEN, cell)),)
