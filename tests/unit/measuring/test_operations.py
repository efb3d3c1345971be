"""Where the time of a step went: kinds of operations by their names, and the profile of a small real step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hvd_r2n2.measuring.operations import KINDS, OTHER, Operation, Profile, kind_of, profile_step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mkldnn_convolution", "aten::convolution", "aten::conv2d"], "convolution forward"),
        (["mkldnn::_convolution_pointwise", "_FusedConv"], "convolution forward"),
        (["aten::empty", "aten::convolution_backward", "ConvolutionBackward0"], "convolution backward"),
        (["aten::mm", "_FusedConvBackward"], "convolution backward"),
        (["aten::mm", "_WideLinearBackward"], "linear"),
        (["aten::addmm", "aten::linear"], "linear"),
        (["aten::leaky_relu_backward", "_FusedConvBackward"], "activation"),
        (["aten::copy_", "aten::_to_copy", "aten::to", "aten::conv2d"], "addition, copies"),
        (["aten::max_pool2d_with_indices_backward"], "pooling"),
        (["aten::log_sigmoid_forward"], "loss"),
        (["aten::mul", "LogSigmoidBackward0"], "loss"),
        (["aten::_fused_adam_", "Optimizer.step#Adam.step"], "optimizer"),
        (["aten::mul_", "Optimizer.step#SGD.step"], "optimizer"),
        (["aten::_foreach_norm"], "optimizer"),
        (["aten::view"], "other"),
    ],
)
def test_kinds(names: Sequence[str], kind: str) -> None:
    assert kind in KINDS
    assert kind_of(names) == kind


def test_transposed_convolutions_are_apart() -> None:
    assert kind_of(["mkldnn::_convolution_transpose_pointwise"], True) == "transposed convolution forward"
    assert kind_of(["aten::convolution_backward"], True) == "transposed convolution backward"


def profile_of_layers() -> tuple[Profile, float]:
    """Return the profile of a step with layers of several kinds, and how long the whole took."""
    torch.manual_seed(0)
    conv, transposed = nn.Conv3d(4, 8, 3, padding=1), nn.ConvTranspose3d(8, 4, 3, stride=2)
    linear = nn.Linear(4, 16)
    optimizer = torch.optim.Adam([*conv.parameters(), *transposed.parameters(), *linear.parameters()])
    inputs = torch.randn(2, 4, 12, 12, 12)

    def step() -> None:
        pooled = F.max_pool3d(F.leaky_relu(conv(inputs)), 2)
        outputs = linear(transposed(pooled).mean((2, 3, 4)))
        F.binary_cross_entropy_with_logits(outputs, torch.ones_like(outputs)).backward()
        optimizer.step()

    step()
    start = time.perf_counter()
    profile = profile_step(step, CPU)
    return profile, time.perf_counter() - start


def test_every_kind_of_a_real_step_is_found_and_all_add_up_to_its_time() -> None:
    profile, whole_s = profile_of_layers()
    seconds = profile.seconds
    assert {kind for kind in KINDS if seconds[kind] > 0} == {*KINDS}
    assert tuple(seconds) == KINDS
    assert sum(seconds.values()) == pytest.approx(profile.step_s)
    assert sum(profile.shares.values()) == pytest.approx(1.0)
    assert 0 < profile.step_s < whole_s
    found = [operation.seconds for operation in profile.operations]
    assert found == sorted(found, reverse=True)
    backward = next(one for one in profile.operations if one.name == "aten::convolution_backward" and one.calls == 1)
    assert backward.shapes in (
        "2×8×12×12×12, 2×4×12×12×12, 8×4×3×3×3",
        "2×4×13×13×13, 2×8×6×6×6, 8×4×3×3×3",
    )


def test_time_outside_of_operations_is_other() -> None:
    profile = profile_step(lambda: time.sleep(0.05), CPU)
    assert profile.seconds[OTHER] == pytest.approx(profile.step_s)
    assert profile.step_s >= 0.05


def test_shares_add_up_where_operations_overlap() -> None:
    operations = (Operation("a", "", "linear", 1, 3.0), Operation("b", "", "pooling", 1, 1.0))
    profile = Profile(2.0, 0, operations)
    assert profile.seconds["other"] == 0.0
    assert profile.shares["linear"] == 0.75


def test_peak_is_what_is_held_at_a_time() -> None:
    def step() -> None:
        first = torch.ones(2**20)
        second = first + 1
        del first
        third = second + 1
        del second, third

    assert profile_step(step, CPU).peak_bytes == pytest.approx(2 * 4 * 2**20, abs=100)  # and the 1
