"""A graph gone through for its inputs first and its weights later gives what autograd gives at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvd_r2n2.split.graph import TwoRuns, accumulate


class Net(nn.Module):
    """Convolutions with a residual sum, a weight that is made of a parameter, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.flipped = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.twice = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.zeros(3))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        """Give features of pictures."""
        hidden = torch.relu_(self.first(inputs))
        hidden = hidden + nn.functional.leaky_relu(self.second(hidden), 0.1)
        hidden = nn.functional.conv2d(hidden, self.flipped.flip(2, 3).transpose(0, 1))
        features = hidden.mean((2, 3))
        result: Tensor = self.twice(torch.tanh(self.twice(features)))
        return result


def run(net: Net, *, needs_inputs: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Give leaf, output and the output's gradient."""
    generator = torch.Generator().manual_seed(1)
    leaf = torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64).requires_grad_(needs_inputs)
    return leaf, net(leaf), torch.randn(3, 4, generator=generator, dtype=torch.float64)


def test_gradients_are_those_of_autograd() -> None:
    expected_net, net = Net(), Net()
    expected_leaf, output, seed = run(expected_net)
    output.backward(seed)  # type: ignore[no-untyped-call]
    leaf, output, seed = run(net)
    parameters = list(net.parameters())
    runs = TwoRuns([output], [seed])
    of_leaf, *early = runs.of_inputs([leaf], parameters, together=[net.first.bias])
    assert of_leaf is not None
    assert torch.equal(of_leaf.tensor, expected_leaf.grad)
    given = {name for (name, _), found in zip(net.named_parameters(), early, strict=True) if found is not None}
    assert given == {"first.bias", "twice.weight", "twice.bias"}, "the others come later"
    accumulate(zip(parameters, early, strict=True))
    accumulate(runs.of_weights())
    for (name, parameter), expected in zip(net.named_parameters(), expected_net.parameters(), strict=True):
        if name == "unused":
            assert parameter.grad is expected.grad is None
        else:
            assert torch.equal(parameter.grad, expected.grad), name


def test_where_no_input_wants_a_gradient_nothing_is_left_for_later() -> None:
    expected_net, net = Net(), Net()
    _, output, seed = run(expected_net, needs_inputs=False)
    output.backward(seed)  # type: ignore[no-untyped-call]
    _, output, seed = run(net, needs_inputs=False)
    runs, parameters = TwoRuns([output], [seed]), list(net.parameters())
    accumulate(zip(parameters, runs.of_inputs([], parameters, together=[]), strict=True))
    assert not list(runs.of_weights())
    for (name, parameter), expected in zip(net.named_parameters(), expected_net.parameters(), strict=True):
        if name != "unused":
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=1e-12)


def test_later_gradients_do_not_need_the_first_ones_memory() -> None:
    """Whoever gets the gradient of an input may not change it; what is kept for weights is right all the same."""
    net = Net()
    leaf, output, seed = run(net)
    runs = TwoRuns([output], [seed])
    found = runs.of_inputs([leaf], list(net.parameters()), together=[])
    assert found[0] is not None
    assert not found[0].is_own
