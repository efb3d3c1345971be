"""What training holds on a CPU, against sizes computed by hand; memory that is kept stays with the process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hvd_r2n2.common import memory
from hvd_r2n2.common.memory import (
    DeviceMemory,
    MemoryCounter,
    available_memory_bytes,
    device_memory,
    is_out_of_memory,
)

FLOAT = 4
IMAGE = 2 * 3 * 8 * 8 * FLOAT  # bytes of 2×3×8×8
FEATURES = 2 * 5 * 8 * 8 * FLOAT


def conv_and_relu() -> tuple[nn.Conv2d, torch.Tensor]:
    return nn.Conv2d(3, 5, 3, padding=1), torch.rand(2, 3, 8, 8)


def test_convolution_saves_its_input_and_relu_its_output() -> None:
    conv, images = conv_and_relu()
    counter = MemoryCounter(conv.parameters())
    with counter.counting():
        result = F.relu(conv(images)).sum()
    assert counter.held_bytes == counter.peak_bytes == IMAGE + FEATURES
    result.backward()
    assert (counter.held_bytes, counter.peak_bytes) == (0, IMAGE + FEATURES)


def test_storage_that_two_operations_save_counts_once() -> None:
    conv, images = conv_and_relu()
    counter = MemoryCounter(conv.parameters())
    with counter.counting():
        first = F.relu(conv(images))
        results = [F.conv2d(first, torch.rand(1, 5, 1, 1, requires_grad=True)) for _ in range(2)]
    assert counter.held_bytes == IMAGE + FEATURES + 2 * 5 * FLOAT
    del results[0]
    gc.collect()
    assert counter.held_bytes == IMAGE + FEATURES + 5 * FLOAT
    del results, first
    gc.collect()
    assert counter.held_bytes == 0


def test_view_counts_as_its_whole_storage() -> None:
    counter = MemoryCounter()
    whole = torch.zeros(100)
    with counter.counting():
        result = whole[:10] * torch.ones(10, requires_grad=True)
    assert counter.held_bytes == 100 * FLOAT
    del result
    assert counter.held_bytes == 0


def test_gradients_are_the_same_with_the_counter() -> None:
    conv, images = conv_and_relu()
    F.relu(conv(images)).pow(2).sum().backward()
    plain = [parameter.grad for parameter in conv.parameters()]
    conv.zero_grad()
    with MemoryCounter(conv.parameters()).counting():
        F.relu(conv(images)).pow(2).sum().backward()
    for parameter, gradient in zip(conv.parameters(), plain, strict=True):
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


def test_each_thread_has_its_own_counter() -> None:
    counters = [MemoryCounter(), MemoryCounter()]
    both_count = threading.Barrier(2)
    results = []

    def run(number: int) -> None:
        weight = torch.ones(number + 1, requires_grad=True)
        with counters[number].counting():
            both_count.wait()
            results.append(torch.exp(weight))
            both_count.wait()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counter.held_bytes for counter in counters] == [FLOAT, 2 * FLOAT]


def test_held_tensor_counts_until_it_is_let_go_of() -> None:
    counter = MemoryCounter()
    tensor = torch.zeros(10)
    held, again = counter.hold(tensor), counter.hold(tensor[2:])
    del held
    assert counter.held_bytes == 10 * FLOAT
    counter.reset_peak()
    del again
    assert (counter.held_bytes, counter.peak_bytes) == (0, 10 * FLOAT)


def test_memory_of_a_device_is_weights_gradients_two_moments_and_what_was_saved() -> None:
    linear, counter = nn.Linear(4, 3), MemoryCounter()
    optimizer = torch.optim.Adam(linear.parameters(), fused=True)
    weights, samples = (4 * 3 + 3) * FLOAT, torch.rand(2, 4)

    def held() -> DeviceMemory:
        return device_memory(linear.parameters(), [optimizer], torch.device("cpu"), counter)

    assert held() == DeviceMemory(weights, 0, 0, 0)
    with counter.counting():
        linear(samples).sum().backward()
    assert held() == DeviceMemory(weights, weights, 0, 2 * 4 * FLOAT)
    optimizer.step()
    with_steps = 2 * weights + 2 * FLOAT  # Adam counts steps for each of the two parameters
    assert held() == DeviceMemory(weights, weights, with_steps, 0)
    assert held().peak_bytes == 4 * weights + 2 * FLOAT
    assert DeviceMemory(1, 2, 3, 4, allocated=20).peak_bytes == 20


def test_a_gpu_is_asked_what_was_allocated_and_only_a_part_of_one_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, linear, counter = torch.device("cuda", 1), nn.Linear(4, 3), MemoryCounter()
    forgotten: list[torch.device] = []
    weights = (4 * 3 + 3) * FLOAT
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {gpu: 1000}.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    with counter.counting():
        linear(torch.rand(2, 4)).sum().backward()
    found = device_memory(linear.parameters(), (), gpu)
    assert found == DeviceMemory(weights, weights, 0, 1000 - 2 * weights, allocated=1000)
    assert found.peak_bytes == 1000
    assert forgotten == [gpu]
    assert device_memory(linear.parameters(), (), gpu, counter) == DeviceMemory(weights, weights, 0, 2 * 4 * FLOAT)


def test_kept_memory_brings_no_page_faults() -> None:
    # In a process of its own: the setting is for good.
    program = """
import resource, torch
from hvd_r2n2.common.memory import keep_freed_memory, release_freed_memory
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
counts = [faults() for _ in range(30)]
release_freed_memory()
print(kept, counts[0] > 10_000, max(counts[-5:]) < 100, faults() > 10_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() in (["True"] * 4, ["False", "True", "False", "True"])  # no glibc


def test_available_memory_is_less_than_the_machine_has() -> None:
    available = available_memory_bytes()
    assert available is not None
    assert 0 < available < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("limit", "left"), [("max\n", []), ("8000\n", [8000 - 6000 + 1500])])
def test_control_group_leaves_what_is_not_used_and_what_it_keeps_of_files(
    limit: str, left: list[int], tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("6000\n")
    (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 1500\nactive_file 500\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    assert list(memory._left_of_groups(tmp_path, membership)) == left
    assert list(memory._left_of_groups(tmp_path / "no group", membership)) == []
    assert list(memory._left_of_groups(tmp_path, tmp_path / "no file")) == []


def test_groups_around_that_of_the_process_limit_it_too(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/another\n0::/slurm/job_7/step_0\n")
    for name, limit in {"slurm": "max", "slurm/job_7": "8000", "slurm/job_7/step_0": "9000", "another": "1"}.items():
        group = tmp_path / name
        group.mkdir()
        for file, text in {"memory.max": limit, "memory.current": "6000", "memory.stat": "inactive_file 500"}.items():
            (group / file).write_text(f"{text}\n")
    assert list(memory._left_of_groups(tmp_path, membership)) == [3500, 2500]


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**55), lambda: np.empty(2**55)], ids=["torch", "numpy"])
def test_lack_of_memory_is_known_from_other_errors(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("another"))
