"""Running stages in order: names, several outputs, folds over views, and what is let go."""

import weakref
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import NamedTensor, Read, Stage, run_stages

PICTURES = NamedTensor("pictures", "VBF")
FEATURES = NamedTensor("features", "VBF")
SUM = NamedTensor("sum", "BF")
COUNT = NamedTensor("count", "B")
GATE = NamedTensor("gate", "BF")
RESULT = NamedTensor("result", "BF")


class Function(nn.Module):
    """A module of a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor | None) -> object:
        return self.function(*inputs)  # type: ignore[operator]


def stage(name: str, function: object, inputs: list[NamedTensor], outputs: list[NamedTensor]) -> Stage:
    return Stage(name, Function(function), tuple(Read(tensor) for tensor in inputs), tuple(outputs))


def gate(features: Tensor, total: Tensor | None) -> Tensor:
    return features if total is None else features + total / 2


def add(features: Tensor, gate: Tensor, total: Tensor | None, count: Tensor | None) -> tuple[Tensor, Tensor]:
    before = torch.zeros(len(features)) if count is None else count
    return (gate if total is None else total + gate), before + 1


def folded() -> list[Stage]:
    return [
        stage("double", lambda pictures: 2 * pictures, [PICTURES], [FEATURES]),
        stage("gate", gate, [FEATURES, SUM], [GATE]),
        stage("add", add, [FEATURES, GATE, SUM, COUNT], [SUM, COUNT]),
        stage("end", lambda total, count: total / count[:, None], [SUM, COUNT], [RESULT]),
    ]


def test_views_of_a_stage_follow_from_its_tensors() -> None:
    assert [stage.views for stage in folded()] == ["each", "fold", "fold", "none"]


def test_consecutive_folds_are_run_once_a_view_in_order() -> None:
    pictures = torch.arange(12.0).reshape(3, 2, 2)
    total = torch.zeros(2, 2)
    for view in pictures:
        total = total + 2 * view + total / 2
    results = run_stages(folded(), {"pictures": pictures}, ["result", "count"])
    assert list(results) == ["result", "count"]
    torch.testing.assert_close(results["result"], total / 3)
    torch.testing.assert_close(results["count"], torch.full((2,), 3.0))


def test_a_fold_goes_on_from_a_state_that_is_given() -> None:
    pictures = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0))
    first = run_stages(folded()[:3], {"pictures": pictures[:2]}, ["sum", "count"])
    both = run_stages(folded(), {"pictures": pictures[2:]} | first, ["result"])
    torch.testing.assert_close(both["result"], run_stages(folded(), {"pictures": pictures}, ["result"])["result"])


def test_gradients_reach_every_view() -> None:
    pictures = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda pictures: run_stages(folded(), {"pictures": pictures}, ["sum"])["sum"], (pictures,)
    )


def test_a_tensor_is_let_go_after_its_last_reader() -> None:
    seen: list[weakref.ref[Tensor]] = []

    def remember(tensor: Tensor) -> Tensor:
        result = tensor + 1
        seen.append(weakref.ref(result))
        return result

    def alive(tensor: Tensor) -> Tensor:
        lives.append([reference() is not None for reference in seen])
        return remember(tensor)

    lives: list[list[bool]] = []
    names = [NamedTensor(letter, "BF") for letter in "abcd"]
    stages = [stage(f"{here.name} to {there.name}", alive, [here], [there]) for here, there in pairwise(names)]
    assert set(run_stages(stages, {"a": torch.zeros(1, 1)}, {"d", "b"})) == {"b", "d"}
    assert lives == [[], [True], [True, True]]
    lives.clear(), seen.clear()
    run_stages([*stages, stage("once more", alive, [names[3]], [names[0]])], {"a": torch.zeros(1, 1)}, {"a"})
    assert lives == [[], [True], [False, True], [False, False, True]]


def test_inputs_are_left_in_the_callers_mapping() -> None:
    tensors = {"pictures": torch.ones(1, 1, 1)}
    run_stages(folded(), tensors, ["result"])
    assert set(tensors) == {"pictures"}


def test_a_wrong_number_of_outputs_and_a_missing_input_are_errors() -> None:
    with pytest.raises(ValueError, match="zip"):
        run_stages([stage("two", lambda x: (x, x), [SUM], [RESULT])], {"sum": torch.ones(1, 1)}, ["result"])
    with pytest.raises(KeyError, match="sum"):
        run_stages(folded()[3:], {"count": torch.ones(1)}, ["result"])
