"""Memory on CPUs: keeping what is freed for the next step, and counting what training holds."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for this process; return whether it is one that can (glibc).

    By default glibc gives large blocks back to the system at once, and each step pays for getting them again, page by
    page: of a training step on one core, 7 to 10 % in float32 and 20 to 30 % in bfloat16. With a single arena blocks
    freed by one thread also serve another, and large blocks of threads are kept too. Call it before threads are made.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    accepted = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings]
    return all(accepted)


def release_freed_memory() -> None:
    """Give all freed memory back to the system, which `keep_freed_memory` prevents otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory_bytes() -> int | None:
    """Return the memory that processes may still take on this machine, in their control group; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *_left_of_groups()]) if available else None


def _left_of_groups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Give what is left of the memory of this process's control group and those around it (version 2), where limited.

    A job of Slurm has its limit in a group of its own; in a container that group is mostly the root itself.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for own in (root / line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        for group in (own, *own.parents):
            if group.is_relative_to(root):
                yield from _left_of_group(group)


def _left_of_group(folder: Path) -> Iterator[int]:
    try:
        limit, used = ((folder / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        pairs = [line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    if limit != "max":
        files = sum(int(value) for name, value in pairs if name == "inactive_file")  # which the system gives up first
        yield max(0, int(limit) - int(used) + files)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether there was not enough memory, of a GPU or of the host; torch has no class of its own for that."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


class MemoryCounter:
    """Counts the bytes that one device holds for backward: each storage once, for as long as a graph needs it.

    Storages of parameters are left out: they are there anyway. What a running operation needs for itself is not seen,
    nor is what `torch.utils.checkpoint` computes again during backward.
    """

    def __init__(self, parameters: Iterable[Tensor] = ()) -> None:
        """Leave out the storages of `parameters`."""
        self._left_out: set[int] = set()
        self.leave_out(parameters)
        self._uses: Counter[int] = Counter()
        self._lock = threading.RLock()  # collecting garbage may let go of a tensor while another is being counted
        self._held_bytes = self._peak_bytes = 0

    def leave_out(self, parameters: Iterable[Tensor]) -> None:
        """Leave out the storages of more parameters."""
        self._left_out |= {tensor.untyped_storage().data_ptr() for tensor in parameters}

    @property
    def held_bytes(self) -> int:
        """Bytes that are held now."""
        return self._held_bytes

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were held at a time since the last `reset_peak`."""
        return self._peak_bytes

    def reset_peak(self) -> None:
        """Forget earlier peaks."""
        self._peak_bytes = self._held_bytes

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what autograd saves for backward in this thread within the block, until it is let go of."""
        with torch.autograd.graph.saved_tensors_hooks(self.hold, _Held.give_back):
            yield

    def hold(self, tensor: Tensor) -> _Held:
        """Count a tensor until the object returned is let go of."""
        return _Held(tensor, self)

    def add(self, tensor: Tensor) -> None:
        """Count one more use of a tensor's storage."""
        storage = tensor.untyped_storage()
        with self._lock:
            self._uses[storage.data_ptr()] += 1
            if self._uses[storage.data_ptr()] == 1 and storage.data_ptr() not in self._left_out:
                self._held_bytes += storage.nbytes()
                self._peak_bytes = max(self._peak_bytes, self._held_bytes)

    def remove(self, tensor: Tensor) -> None:
        """Take one use back."""
        storage = tensor.untyped_storage()
        with self._lock:
            self._uses[storage.data_ptr()] -= 1
            if self._uses[storage.data_ptr()] == 0:
                del self._uses[storage.data_ptr()]
                if storage.data_ptr() not in self._left_out:
                    self._held_bytes -= storage.nbytes()


class _Held:
    """A tensor, counted for as long as this object lives."""

    def __init__(self, tensor: Tensor, counter: MemoryCounter) -> None:
        # Detached: a graph that holds its own output would never be freed.
        self._tensor, self._counter = tensor.detach(), counter
        counter.add(self._tensor)

    def give_back(self) -> Tensor:
        """Return the tensor."""
        return self._tensor

    def __del__(self) -> None:
        self._counter.remove(self._tensor)


@dataclass(frozen=True)
class DeviceMemory:
    """What training holds on one device, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    """Its state."""
    saved: int
    """Most that was held for backward at a time; a GPU's: most that was allocated besides the above."""
    allocated: int | None = None
    """A GPU's: most that was allocated at a time, whatever for."""

    @property
    def peak_bytes(self) -> int:
        """Memory that the device must have: what was allocated, or, on a CPU, the sum of what is counted."""
        return self.weights + self.gradients + self.optimizer + self.saved if self.allocated is None else self.allocated


def device_memory(
    parameters: Iterable[Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
    device: torch.device,
    counter: MemoryCounter | None = None,
) -> DeviceMemory:
    """Return what is held on a device since the last call, and forget the peak.

    A GPU needs no `counter`, which costs the host a call for each saved tensor: its allocator knows. With one, it is
    the counter that says what was saved, as for a part of a GPU, or a CPU.
    """
    weights = list(parameters)
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    found = DeviceMemory(
        weights=_bytes(weights),
        gradients=_bytes(weight.grad for weight in weights),
        optimizer=_bytes(value for state in states for value in state.values()),
        saved=0,
    )
    if counter is not None:
        found = replace(found, saved=counter.peak_bytes)
        counter.reset_peak()
    elif device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = replace(found, saved=max(0, allocated - found.peak_bytes), allocated=allocated)
    return found


def _bytes(tensors: Iterable[Any]) -> int:
    """Return the size of tensors, each once; of one that is part of a larger one, the part."""
    found = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
    return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in found}.values())
