"""What happens when a task fails or hangs, and that nothing is left behind."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split import Plan, SplitNetwork, SplitOptions
from tests.split.toys import Toy

CPU = torch.device("cpu")
PLANS = [Plan("pipeline", micro_batches=2, cut=("unit.gate",)), Plan("kernel", micro_batches=2)]


def workers() -> list[str]:
    """Name the split's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hvd_r2n2-split")]


def with_module(stages: tuple[Stage, ...], name: str, module: nn.Module) -> tuple[Stage, ...]:
    """Give the stages with another module in one of them."""
    return tuple(replace(stage, module=module) if stage.name == name else stage for stage in stages)


class Failing(nn.Module):
    """A loss that raises, forward or backward."""

    def __init__(self, in_backward: bool) -> None:
        super().__init__()
        self.in_backward = in_backward

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Raise, or make backward raise."""
        if not self.in_backward:
            raise ZeroDivisionError("the loss fell over")
        loss = (outputs - target).square().mean()
        loss.register_hook(self.fall_over)
        return loss

    def fall_over(self, gradient: Tensor) -> None:
        """Raise in backward."""
        raise ZeroDivisionError("the loss fell over")


class Hanging(nn.Module):
    """A loss that never comes, until it is let go."""

    release = threading.Event()

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Wait."""
        self.release.wait(30)
        return (outputs - target).square().mean()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.strategy)
@pytest.mark.parametrize("in_backward", [False, True])
def test_task_that_raises_stops_all_workers_with_its_own_traceback(plan: Plan, in_backward: bool) -> None:
    model = Toy(2, 1, 4, 1)
    stages = with_module(model.stages(), "loss", Failing(in_backward))
    with SplitNetwork(model, stages, plan, [CPU, CPU]) as split:
        with pytest.raises(ZeroDivisionError, match="the loss fell over") as caught:
            split.gradients(model.inputs(2, 4))
        frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert frames[-1] == ("fall_over" if in_backward else "forward")
        assert len(workers()) == 2
    assert workers() == []


def test_worker_that_hangs_is_reported_with_what_the_others_wait_for() -> None:
    model = Toy(2, 1, 4, 1)
    Hanging.release.clear()
    stages = with_module(model.stages(), "loss", Hanging())
    options = SplitOptions(hang_timeout_s=0.5)
    split = SplitNetwork(model, stages, PLANS[0], [CPU, CPU], options=options)
    message = (
        r"the split hangs: no task has ended for 0\.5 s\. "
        r"device 0 \(cpu\): backward of each0.* m0 v0 waits for backward of .*loss m0 v0; "
        r"device 1 \(cpu\): forward of unit.gate.*loss m0 v0 runs"
    )
    with pytest.raises(RuntimeError, match=message):
        split.gradients(model.inputs(2, 4))
    Hanging.release.set()
    split.close()
    assert workers() == []


def test_split_goes_on_after_a_failed_step() -> None:
    """A batch of another size that cannot be cut raises; the next one is right."""
    model = Toy(2, 1, 4, 1)
    with SplitNetwork(model, model.stages(), PLANS[0], [CPU, CPU]) as split:
        with pytest.raises(ValueError, match=r"split\.micro_batches: 2 is more than the 1 sample"):
            split.gradients(model.inputs(2, 1))
        assert torch.isfinite(split.gradients(model.inputs(2, 4)).loss)


def test_devices_run_at_the_same_time() -> None:
    """Two tasks that wait for one another's start can both run only if their workers are threads of their own."""

    class Meeting(nn.Linear):
        barrier = threading.Barrier(2, timeout=20)

        def forward(self, inputs: Tensor) -> Tensor:
            self.barrier.wait()
            return super().forward(inputs)

        def __deepcopy__(self, memo: dict[int, object]) -> Meeting:
            copy = Meeting(self.in_features, self.out_features).double()
            copy.weight, copy.bias = self.weight, self.bias
            return copy

    model = Toy(1, 1, 4, 1)
    model.each[0] = Meeting(4, 4).double()
    with SplitNetwork(model, model.stages(), Plan("kernel"), [CPU, CPU]) as split:
        assert torch.isfinite(split.gradients(model.inputs(1, 2)).loss)


def test_times_and_bytes_are_those_of_the_step() -> None:
    model = Toy(2, 1, 4, 1)
    inputs = model.inputs(2, 4)
    with SplitNetwork(model, model.stages(), PLANS[0], [CPU, CPU]) as split:
        start = time.perf_counter()
        result = split.gradients(inputs)
        elapsed_s = time.perf_counter() - start
        program = split.program(4, 2)
    tasks = list(result.tasks())
    assert len(tasks) == sum(map(len, program.orders))
    assert all(0 <= task.start_s <= task.end_s <= elapsed_s for task in tasks)
    features_bytes = inputs["x"].numel() * 8  # what crosses forward, and its gradient back
    assert result.bytes_moved == 2 * features_bytes
