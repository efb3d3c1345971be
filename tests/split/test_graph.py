"""A graph gone through for its inputs first and its weights later gives what autograd gives at once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hvd_r2n2.split.executor import Executor
from hvd_r2n2.split.graph import TwoRuns, accumulate
from hvd_r2n2.split.pipeline import pipeline_program
from hvd_r2n2.split.rehearsal import on_one_device
from hvd_r2n2.split.shards import Shards
from hvd_r2n2.split.worker import Worker
from tests.split.lists import stage
from tests.split.toys import Dense, MeanSquare, one_device


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


def test_gradients_of_inputs_are_nobodys_to_change() -> None:
    net = Net()
    leaf, output, seed = run(net)
    runs = TwoRuns([output], [seed])
    found = runs.of_inputs([leaf], list(net.parameters()), together=[])
    assert found[0] is not None
    assert not found[0].is_own


class Sum(nn.Linear):
    """W a + bias + b: autograd hands the product and `b` the same gradient."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Give the features."""
        return super().forward(a) + b


def test_a_gradient_kept_for_weights_stays_while_other_readers_add_to_it() -> None:
    """What `sum` finds for `b` is kept for its own weights, too; `last` adds to it before their gradients are found."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"a": Dense(3, 3), "b": Dense(3, 3), "sum": Sum(3, 3), "tail": Dense(3, 3), "last": Dense(3, 3)}
    ).double()
    stages = (
        stage("b", ["x:BF"], ["b:BF"], model["b"]),
        stage("a", ["b:BF"], ["a:BF"], model["a"]),
        stage("sum", ["a:BF", "b:BF"], ["sum:BF"], model["sum"]),
        stage("tail", ["sum:BF"], ["tail:BF"], model["tail"]),
        stage("last", ["tail:BF", "b:BF"], ["y:BF"], model["last"]),
        stage("loss", ["y:BF", "target:BF"], ["loss:"], MeanSquare()),
    )
    inputs = {name: torch.randn(4, 3, dtype=torch.float64) for name in ("x", "target")}
    _, expected = one_device(model, stages, inputs, (4,))
    program = on_one_device(pipeline_program(stages, 3, (4,), (1,), ["sum", "last"], schedule="zero-bubble"))
    weights_last = sorted(program.orders[0], key=lambda task: task.kind == "weights")
    program = replace(program, orders=(tuple(weights_last),))
    program.check()
    with Worker(0, torch.device("cpu"), 1) as worker:
        shards = Shards(model, stages, {call.piece: None for call in program.calls}, [worker.device])
        Executor([worker], shards.stages).run(program, inputs)
    for shard in shards:
        torch.testing.assert_close(shard.leaf.grad, expected[shard.name], rtol=0, atol=1e-12, msg=shard.name)
