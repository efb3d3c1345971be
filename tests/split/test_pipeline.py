"""The pipeline computes what one device computes, whatever the stages, the cut, and the sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_r2n2.split import Plan, SplitNetwork
from hvd_r2n2.split.executor import Options
from hvd_r2n2.split.pipeline import pipeline_program
from tests.split.toys import Toy, one_device

CPU = torch.device("cpu")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    """Draw a stage list, a cut that is possible, and sizes that need not divide."""
    num_each, num_none = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    names = [f"each{n}" for n in range(num_each)] + ["unit.gate"] + [f"none{n}" for n in range(num_none)] + ["loss"]
    positions = draw(st.sets(st.integers(1, len(names) - 1), min_size=1, max_size=3))
    num_samples = draw(st.integers(1, 5))
    return {
        "model": Toy(num_each, num_none, 3, 1, frozenset(draw(st.sets(st.sampled_from([1, 2, 101, 102]))))),
        "cut": tuple(names[position] for position in sorted(positions)),
        "num_samples": num_samples,
        "micro_batches": draw(st.integers(1, num_samples)),
        "num_views": draw(st.integers(1, 4)),
        "view_chunks": draw(st.integers(1, 4)),
        "schedule": draw(st.sampled_from(["1f1b", "fill-drain", "zero-bubble"])),
        "recompute": draw(st.booleans()),
    }


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_equals_one_device(case: dict[str, object]) -> None:
    model, cut = case["model"], case["cut"]
    assert isinstance(model, Toy)
    assert isinstance(cut, tuple)
    stages = model.stages()
    inputs = model.inputs(case["num_views"], case["num_samples"])  # type: ignore[arg-type]
    plan = Plan(
        "pipeline",
        micro_batches=case["micro_batches"],  # type: ignore[arg-type]
        cut=cut,
        view_chunks=case["view_chunks"],  # type: ignore[arg-type]
        schedule=str(case["schedule"]),
    )
    sizes = plan.sizes(case["num_samples"])  # type: ignore[arg-type]
    loss, gradients = one_device(model, stages, inputs, sizes)
    options = Options(recompute=bool(case["recompute"]))
    with SplitNetwork(model, stages, plan, [CPU] * (len(cut) + 1), options=options) as split:
        result = split.gradients(inputs)
        found = {shard.name: shard.leaf.grad for shard in split.shards}
    assert found.keys() == gradients.keys()
    is_exact = plan.view_chunks == 1
    torch.testing.assert_close(result.loss, loss, rtol=0, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0 if is_exact else 1e-12, msg=name)


def test_both_devices_work_at_the_same_time() -> None:
    model = Toy(3, 3, 3, 1)
    plan = Plan("pipeline", micro_batches=3, cut=("unit.gate",), schedule="1f1b")
    with SplitNetwork(model, model.stages(), plan, [CPU, CPU]) as split:
        program = split.program(6, 2)
    labels = [[(t.kind[0], program.calls[t.call].micro_batch) for t in order] for order in program.orders]
    assert labels[0] == [("f", 0), ("f", 1), ("f", 2), ("b", 0), ("b", 1), ("b", 2)]
    assert labels[1] == [("f", 0), ("b", 0), ("f", 1), ("b", 1), ("f", 2), ("b", 2)]


def test_gradients_of_weights_wait_for_idle_moments() -> None:
    program = pipeline_program(Toy(2, 0, 2, 0).stages(), 2, (1, 1, 1), (1,), ["unit.gate"], schedule="zero-bubble")
    program.check()
    orders = [" ".join(f"{t.kind[0]}{program.calls[t.call].micro_batch}" for t in order) for order in program.orders]
    assert orders == ["f0 f1 f2 b0 b1 b2", "f0 b0 f1 b1 w0 f2 b2 w1 w2"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_program_whose_losses_do_not_add_up_is_found(factor: float) -> None:
    program = pipeline_program(Toy(1, 0, 2, 0).stages(), 2, (2, 1), (1,), ["unit.gate"], schedule="1f1b")
    program.check()
    calls = tuple(replace(call, weight=factor * call.weight) for call in program.calls)
    with pytest.raises(AssertionError, match="losses do not add up"):
        replace(program, calls=calls).check()


def test_few_micro_batches_are_under_way_without_bubbles() -> None:
    """At most three on the first device and two on the second, those included whose weights have no gradients yet."""
    sizes = (1,) * 9
    program = pipeline_program(Toy(2, 0, 2, 0).stages(), 2, sizes, (1,), ["unit.gate"], schedule="zero-bubble")
    for order, most in zip(program.orders, (3, 2), strict=True):
        begun = ended = 0
        for task in order:
            begun += task.kind == "forward"
            ended += task.kind == program.calls[task.call].kinds[-1]
            assert begun - ended <= most


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (("none9",), "split.cut: no stage is called none9 (did you mean none2? "),
        (("unit.candidate",), "inside the recurrent unit"),
        (("each0",), "not each0"),
        (("none1", "each1"), "in the order of the stages"),
        ((), "1 in all"),
    ],
)
def test_impossible_cuts_are_refused(cut: tuple[str, ...], message: str) -> None:
    model = Toy(3, 3, 3, 1)
    with pytest.raises(ValueError, match=r"split\.cut") as caught:
        SplitNetwork(model, model.stages(), Plan("pipeline", cut=cut), [CPU] * max(2, len(cut) + 1))
    assert message in str(caught.value)
