"""Figures of `benchmark device`, against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.common import products
from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.arithmetic import count_arithmetic
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.device_arms import device_arms, for_inference
from hvd_r2n2.measuring.device_result import device_entries, machine_rates
from hvd_r2n2.measuring.inference import InferenceRunner
from hvd_r2n2.measuring.matrix import MatrixRunner, matrix_rates
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.operations import Operation, Profile
from hvd_r2n2.measuring.result import ArmResult

CONFIG = load_config(
    None,
    ["model.width=0.05", "train.batch_size=8", "train.max_views=2", "train.device=cpu", "evaluation.batch_size=4"],
)
PLAIN, *_, FLOAT32, BFLOAT16 = device_arms(CONFIG)
PROFILE = Profile(2.0, 1000, (Operation("aten::mm", "2×2, 2×2", "linear", 3, 1.5),))
RATES = {"float32": {"best": 1e9}, "bfloat16": {"best": 4e9}}


def result(arm: ArmSpec, times_s: list[float], memory: DeviceMemory) -> ArmResult:
    steps = tuple((Done(0.0, seconds, seconds, 0.0, (memory,), 5000 + n, 0),) for n, seconds in enumerate(times_s))
    return ArmResult(arm, ("cpu:0",), (), arm.samples(CONFIG), steps, profile=PROFILE)


def test_figures_of_training() -> None:
    memory = DeviceMemory(1, 1, 2, 10)
    results = [
        result(PLAIN, [4.0, 8.0, 6.0], memory),
        result(FLOAT32, [2.0, 2.0, 3.0], memory),
        result(BFLOAT16, [0.5, 0.5, 0.5], memory),
    ]
    plain, float32, bfloat16 = device_entries(results, CONFIG, RATES, num_views=2)
    assert [entry["dtype"] for entry in (plain, float32, bfloat16)] == ["float32", "float32", "bfloat16"]
    assert (plain["ratio_to_plain"], float32["ratio_to_plain"], bfloat16["ratio_to_plain"]) == (1.0, 3.0, 12.0)
    assert float32["ratio_quartiles"] == [2.0, 3.0]  # of 4/2, 8/2 and 6/3
    assert (float32["images_per_s"], float32["views_per_s"], float32["samples_per_s"]) == (8.0, 8.0, 4.0)
    needed = count_arithmetic(CONFIG.model, 8, 2).step
    assert plain["flop"] == float32["flop"] == needed
    assert float32["of_matrix_rate"] == pytest.approx(needed / 2.0 / 1e9)
    assert bfloat16["of_matrix_rate"] == pytest.approx(needed / 0.5 / 4e9)
    assert (plain["peak_memory_bytes"], plain["resident_bytes"]) == (14, 5002)
    assert plain["breakdown"]["linear"] == {"seconds": 1.5, "share": 0.75}
    assert plain["breakdown"]["other"] == {"seconds": 0.5, "share": 0.25}
    assert plain["operations"] == [
        {"name": "aten::mm", "shapes": "2×2, 2×2", "kind": "linear", "calls": 3, "seconds": 1.5}
    ]


def test_figures_of_inference() -> None:
    (entry,) = device_entries([result(for_inference(PLAIN), [2.0], DeviceMemory(7, 0, 0, 0))], CONFIG, RATES, 3)
    assert entry["images_per_s"] == 4 * 3 / 2.0
    assert entry["flop"] == count_arithmetic(CONFIG.model, 4, 3).forward
    assert entry["peak_memory_bytes"] == 1007


def test_inference_on_a_gpu_needs_what_was_allocated() -> None:
    memory = DeviceMemory(7, 0, 0, 0, allocated=50)
    (entry,) = device_entries([result(for_inference(PLAIN), [2.0], memory)], CONFIG, RATES, 3)
    assert entry["peak_memory_bytes"] == 50


def test_rate_of_a_shape_is_that_of_its_median_time_and_the_best_shape_counts() -> None:
    times = [(0.1, 1.0), (0.3, 1.0), (0.2, 1.0)]
    steps = tuple(
        (Done(0.0, 1.0, 1.0, 0.0, (), 0, 0, parts_s={"10x20x30": first, "100x20x30": second}),)
        for first, second in times
    )
    assert matrix_rates([step[0] for step in steps]) == pytest.approx({"10x20x30": 12000 / 0.2, "100x20x30": 120000})
    arm = ArmSpec("matrix-float32", kind="matrix")
    rates = machine_rates([ArmResult(arm, ("cpu:0",), (), 8, steps)])
    assert rates["float32"]["best"] == 120000
    assert rates.keys() == {"float32"}


def test_products_are_timed_by_shape() -> None:
    threads = torch.get_num_threads()
    runner = MatrixRunner(load_config(None, ["train.device=cpu", f"train.cpu_threads={threads}"]), Alone())
    runner.step(runner.batch(1))
    seconds = runner.parts_s()
    assert "2048x2048x2048" in seconds
    assert len(seconds) > 1
    assert min(seconds.values()) > 0


def test_libraries_multiply_the_same() -> None:
    settings = [f"train.cpu_threads={torch.get_num_threads()}", "train.device=cpu"]
    runner = MatrixRunner(load_config(None, settings), Alone())
    assert len(runner._libraries) == 1 + torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    inputs, weight = runner._pairs["1024x4096x1024"]
    expected = inputs.double() @ weight.double().t()
    for library in runner._libraries:
        torch.testing.assert_close(library(inputs, weight).double(), expected, rtol=1e-4, atol=1e-2)


@pytest.fixture
def _no_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_cpu_has_bfloat16", lambda: False)


@pytest.mark.usefixtures("_no_hardware")
def test_products_of_bfloat16_are_as_layers_compute_them() -> None:
    settings = [f"train.cpu_threads={torch.get_num_threads()}", "train.device=cpu", "train.dtype=bfloat16"]
    runner = MatrixRunner(load_config(None, settings), Alone())
    assert {tensor.dtype for pair in runner._pairs.values() for tensor in pair} == {torch.float32}


def test_inference_gives_the_logits_of_its_batch_without_gradients() -> None:
    threads = torch.get_num_threads()
    runner = InferenceRunner(
        load_config(None, [f"train.cpu_threads={threads}", "model.width=0.05", "train.device=cpu"]), Alone()
    )
    inputs = runner.batch(2)
    assert inputs["images"].shape == (2, 16, 3, 127, 127)
    seen: list[torch.Tensor] = []
    handle = runner.model.register_forward_hook(lambda module, arguments, output: seen.append(output))
    runner.step(inputs)
    handle.remove()
    assert seen[0].shape == (16, 2, 32, 32, 32)
    assert seen[0].is_inference()
    assert not runner.model.training
    runner.close()


@pytest.mark.usefixtures("_no_hardware")
def test_memory_of_inference_counts_converted_weights() -> None:
    settings = ["model.width=0.05", "train.device=cpu", "train.dtype=bfloat16"]
    runner = InferenceRunner(load_config(None, [*settings, f"train.cpu_threads={torch.get_num_threads()}"]), Alone())
    weights = [parameter for parameter in runner.model.parameters() if parameter.ndim > 1]
    before = runner.memory()[0].weights
    runner.step(runner.batch(1))
    assert runner.memory()[0].weights - before == sum(weight.nbytes for weight in weights)
    runner.close()
    assert runner.memory()[0].weights == before
