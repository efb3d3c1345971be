"""The 3D convolutional recurrent units and the projection of the features into them.

Source: the paper, arXiv 1604.00449. Shapes: V views, B batch, F features, G gates, C channels of the hidden state,
D H W its x, y, z (4×4×4). In formulas h is the hidden state, s the cell state, x a view's projection
(Wx·fc7, one a gate), W and b a gate's convolution of h and its bias, σ the logistic function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.models.layers import GateConv3d

HIDDEN_SIDE = 4

State = tuple[Tensor, ...]


class InputProjection(nn.Linear):
    """Project the features of all views into all gates, outside the recurrence; VBF to VBGCDHW, no bias.

    Rows of the weight are indexed (gate, channel, D, H, W): every cell of the state has weights of its own.
    """

    def __init__(self, num_features: int, num_gates: int, channels: int, *, fast: bool) -> None:
        super().__init__(num_features, num_gates * channels * HIDDEN_SIDE**3, bias=False)
        self.num_gates = num_gates
        self.channels = channels
        self.fast = fast

    def forward(self, features_VBF: Tensor) -> Tensor:
        """Give the projections VBGCDHW."""
        grid = (self.channels, HIDDEN_SIDE, HIDDEN_SIDE, HIDDEN_SIDE)
        if self.fast:
            return F.linear(features_VBF, self.weight).view(*features_VBF.shape[:2], self.num_gates, *grid)
        gate_weights = self.weight.chunk(self.num_gates)
        return torch.stack(
            [
                torch.stack([F.linear(features_BF, weight).view(-1, *grid) for weight in gate_weights], dim=1)
                for features_BF in features_VBF
            ]
        )


class RecurrentUnit(nn.Module, ABC):
    """Fold the projections of the views, in order, into one hidden state; VBGCDHW to BCDHW.

    `step` takes one view, so that whoever pipelines views may call it as they come.
    """

    num_gates = 3

    def __init__(self, *, fast: bool) -> None:
        super().__init__()
        self.fast = fast

    def forward(self, projections_VBGCDHW: Tensor) -> Tensor:
        """Give the hidden state after the last view."""
        views = projections_VBGCDHW.unbind(0)
        state = self.initial_state(views[0])
        for projection_BGCDHW in views:
            state = self.step(projection_BGCDHW, state)
        return state[0]

    @abstractmethod
    def initial_state(self, projection_BGCDHW: Tensor) -> State:
        """Give the state before the first view: zeros, of the projection's type and device."""

    @abstractmethod
    def step(self, projection_BGCDHW: Tensor, state: State) -> State:
        """Take one view and give the new state, whose first tensor is the hidden state BCDHW."""


class GRU3d(RecurrentUnit):
    """3D-GRU: u = σ(W_u h + x_u + b_u), r = σ(W_r h + x_r + b_r), c = tanh(W_c (r⊙h) + x_c + b_c),
    h' = u⊙h + (1−u)⊙c. Gates are in the order update, reset, candidate.
    """

    def __init__(self, channels: int, kernel_size: int, *, fast: bool) -> None:
        super().__init__(fast=fast)
        self.gates = GateConv3d(channels, 2, kernel_size)
        self.candidate = GateConv3d(channels, 1, kernel_size)

    def initial_state(self, projection_BGCDHW: Tensor) -> State:
        """Give (h,) of zeros."""
        return (torch.zeros_like(projection_BGCDHW[:, 0]),)

    def step(self, projection_BGCDHW: Tensor, state: State) -> State:
        """Give (h',)."""
        (hidden,) = state
        if self.fast:
            gates: Tensor = self.gates(hidden) + projection_BGCDHW[:, :2].flatten(1, 2)
            update, reset = gates.sigmoid_().chunk(2, dim=1)
            candidate = (self.candidate(reset * hidden) + projection_BGCDHW[:, 2]).tanh_()
            return (torch.lerp(candidate, hidden, update),)
        x_update, x_reset, x_candidate = projection_BGCDHW.unbind(1)
        update = torch.sigmoid(self.gates.of_gate(hidden, 0) + x_update)
        reset = torch.sigmoid(self.gates.of_gate(hidden, 1) + x_reset)
        candidate = torch.tanh(self.candidate(reset * hidden) + x_candidate)
        return (update * hidden + (1 - update) * candidate,)


class LSTM3d(RecurrentUnit):
    """3D-LSTM without output gate: f = σ(W_f h + x_f + b_f), i = σ(W_i h + x_i + b_i),
    g = tanh(W_g h + x_g + b_g), s' = f⊙s + i⊙g, h' = tanh(s'). Gates in the order forget, input, candidate.
    """

    def __init__(self, channels: int, kernel_size: int, *, fast: bool) -> None:
        super().__init__(fast=fast)
        self.gates = GateConv3d(channels, 3, kernel_size)

    def initial_state(self, projection_BGCDHW: Tensor) -> State:
        """Give (h, s) of zeros."""
        zeros = torch.zeros_like(projection_BGCDHW[:, 0])
        return zeros, zeros

    def step(self, projection_BGCDHW: Tensor, state: State) -> State:
        """Give (h', s')."""
        hidden, cell = state
        if self.fast:
            gates: Tensor = self.gates(hidden) + projection_BGCDHW.flatten(1, 2)
            forget, input_, candidate = gates.chunk(3, dim=1)
            cell = torch.addcmul(torch.sigmoid(forget) * cell, torch.sigmoid(input_), torch.tanh(candidate))
            return torch.tanh(cell), cell
        x_forget, x_input, x_candidate = projection_BGCDHW.unbind(1)
        forget = torch.sigmoid(self.gates.of_gate(hidden, 0) + x_forget)
        input_ = torch.sigmoid(self.gates.of_gate(hidden, 1) + x_input)
        candidate = torch.tanh(self.gates.of_gate(hidden, 2) + x_candidate)
        cell = forget * cell + input_ * candidate
        return torch.tanh(cell), cell
