"""Measures what a network costs on a rank's devices: calls of every strategy, contention, copies, the optimizer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config, OptimizerConfig
from hvd_r2n2.models import Network
from hvd_r2n2.split import Plan, SplitOptions
from hvd_r2n2.split.costs import Costs, Machine, Part, PartCosts, TensorSize, measured_parts, tensor_sizes
from hvd_r2n2.split.program import Program
from hvd_r2n2.split.rehearsal import Rehearsal, unit_program
from hvd_r2n2.split.worker import Worker
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.optimizer import build_optimizer
from hvd_r2n2.training.precision import autocast

_PROBE_BYTES = 64 * 2**20
"""Size of what is copied, added and moved to find out how fast that is."""
_NUM_HANDOVERS = 200
_REPEATS = 3


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure."""

    num_runs: int = 3
    """Runs of which the median is taken."""
    seconds_a_run: float = 20.0
    """About how long one may take: it decides on the numbers of samples that are tried."""


def measure_costs(
    config: Config,
    model: Network,
    loss_stage: Stage,
    devices: Sequence[torch.device],
    threads_per_device: int,
    *,
    strategies: Sequence[str],
    num_samples: int,
    num_views: int,
    ranks_of_host: int = 1,
    effort: Effort,
    report: Callable[[str], None] = lambda text: None,
) -> Costs:
    """Measure on this rank alone, with random inputs; the network's weights stay as they are, its gradients do not.

    Args:
        config: gives the arithmetic and the optimizer.
        model: the network, on the first device.
        loss_stage: from its outputs and the target to the loss.
        devices: the rank's, in order.
        threads_per_device: of each CPU device.
        strategies: of which the calls are measured, as far as they are possible for the network.
        num_samples: that a rank has at a time.
        num_views: most views of a step.
        ranks_of_host: ranks that share its memory.
        effort: how thoroughly to measure.
        report: told what is being done.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(n, device, threads_per_device)) for n, device in enumerate(devices)]
        bench = _Bench(config, model, (*model.stages(), loss_stage), workers, num_views)
        sizes = bench.sizes(num_samples, effort.seconds_a_run)
        report(f"measuring layers with micro-batches of {', '.join(map(str, sorted(set(sizes))))} samples")
        return bench.costs(strategies, sizes, effort.num_runs, memory_of_a_device(devices, ranks_of_host))


class _Bench:
    def __init__(
        self, config: Config, model: Network, stages: tuple[Stage, ...], workers: Sequence[Worker], num_views: int
    ) -> None:
        self._config, self._model, self._stages = config, model, stages
        self._workers, self._num_views = workers, num_views
        self._options = SplitOptions(autocast=lambda device: autocast(config.train.dtype, device))

    def sizes(self, num_samples: int, seconds: float) -> tuple[int, ...]:
        """Choose micro-batches to try: 1, 2, 4, … as far as time and samples go, and 1 again.

        The last one shows what is done once a step.
        """
        first = self._rehearsal(self._stages, self._model, unit_program(self._stages, (1,), self._num_views), 0)
        first.run()
        one_s = first.run()
        sizes = [1]
        while 2 * sizes[-1] <= num_samples and (sum(sizes) + 2 * sizes[-1] + 1) * one_s <= seconds:
            sizes.append(2 * sizes[-1])
        return (*sizes, 1)

    def costs(
        self, strategies: Sequence[str], sizes: tuple[int, ...], num_runs: int, memory_bytes: int | None
    ) -> Costs:
        """Measure everything, in turn, so that drifts of the machine concern all alike."""
        programs = [unit_program(self._stages, sizes, self._num_views), *self._programs(strategies, sizes)]
        rehearsals = [self._rehearsal(self._stages, self._model, program, 0) for program in programs]
        twins = [rehearsals[0], *self._twins(programs[0])]
        for rehearsal in (*rehearsals, *twins[1:]):
            rehearsal.run()
        slowdowns = []
        for _ in range(num_runs):
            alone_s = rehearsals[0].run()
            if len(twins) > 1:
                slowdowns.append(_together(twins) / alone_s)
            for rehearsal in rehearsals[1:]:
                rehearsal.run()
        parts: dict[Part, PartCosts] = {}
        tensors: dict[str, TensorSize] = {}
        for program, rehearsal in zip(programs, rehearsals, strict=True):
            parts |= measured_parts(program, self._stages, rehearsal.takes())
            tensors |= tensor_sizes(program, self._stages, rehearsal.outputs)
        return Costs(
            parts=parts,
            views={stage.name: stage.views for stage in self._stages},
            tensors=tensors,
            machine=self._machine(median(slowdowns) if slowdowns else 1.0, rehearsals[0].between_s, memory_bytes),
            recompute=self._config.train.recompute,
        )

    def _programs(self, strategies: Sequence[str], sizes: tuple[int, ...]) -> Iterator[Program]:
        for strategy in strategies:
            if strategy != "pipeline":
                try:
                    yield Plan(strategy, sizes).program(self._stages, len(self._workers), sum(sizes), self._num_views)
                except ValueError:  # whoever ranks the strategies says why
                    continue

    def _rehearsal(self, stages: Sequence[Stage], model: Network, program: Program, worker: int) -> Rehearsal:
        inputs = random_inputs(
            self._config, self._model, sum(program.micro_batches), self._num_views, self._workers[worker].device
        )
        return Rehearsal(model, stages, program, inputs, self._workers[worker], self._options)

    def _twins(self, program: Program) -> list[Rehearsal]:
        """Prepare the same work for the other devices, on copies of the weights."""
        twins = []
        for worker in range(1, len(self._workers)):
            model, stages = copy.deepcopy((self._model, self._stages))
            twins.append(self._rehearsal(stages, model, program, worker))
        return twins

    def _machine(self, slowdown: float, task_s: float, memory_bytes: int | None) -> Machine:
        workers = self._workers
        copy_s, local_s = _copy_seconds(workers)
        update_s, state_bytes = _update_seconds(self._config.optimizer, workers)
        is_shared = workers[0].device.type == "cpu"
        return Machine(
            slowdown=max(1.0, slowdown),
            task_s=task_s,
            handover_s=_handover_seconds(workers),
            copy_s_per_byte=copy_s,
            # Through memory that processes share: in, the sum, and out again. Between GPUs: a ring.
            exchange_s_per_byte=4 * local_s if is_shared else 2 * (len(workers) - 1) / len(workers) * copy_s,
            norm_s_per_byte=_norm_seconds(workers[0].device),
            update_s_per_byte=update_s,
            state_bytes_per_byte=state_bytes,
            memory_bytes=memory_bytes,
        )


def _together(twins: Sequence[Rehearsal]) -> float:
    """Run the same work on all devices at once; return how long it took each on average."""
    with ThreadPoolExecutor(len(twins)) as pool:
        seconds = list(pool.map(lambda twin: twin.run(keeps_times=False), twins))
    return sum(seconds) / len(seconds)


def _timed(job: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a job, after a first run."""
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _handover_seconds(workers: Sequence[Worker]) -> float:
    """Return how long it takes until a waiting thread goes on."""
    start = time.perf_counter()
    for number in range(_NUM_HANDOVERS):
        workers[number % len(workers)].submit(lambda: None).result()
    return (time.perf_counter() - start) / _NUM_HANDOVERS / 2  # there and back


def _copy_seconds(workers: Sequence[Worker]) -> tuple[float, float]:
    """Return the seconds a byte takes from one device to the next (0 if they are the same), and within the first."""
    first, other = workers[0].device, workers[-1].device
    block = torch.empty(_PROBE_BYTES, dtype=torch.uint8, device=first)
    twin = torch.empty_like(block)
    local_s = workers[0].submit(lambda: _timed(lambda: twin.copy_(block), first)).result() / _PROBE_BYTES
    if first == other:
        return 0.0, local_s
    return workers[-1].submit(lambda: _timed(lambda: block.to(other), other)).result() / _PROBE_BYTES, local_s


def _norm_seconds(device: torch.device) -> float:
    gradient = torch.zeros(_PROBE_BYTES // 4, device=device)
    return _timed(lambda: torch.nn.utils.get_total_norm([gradient]).item(), device) / _PROBE_BYTES


def _update_seconds(config: OptimizerConfig, workers: Sequence[Worker]) -> tuple[float, float]:
    """Return the seconds that moving a byte of weights takes while all devices do, and the bytes of state for it."""
    optimizers = []
    for worker in workers:
        weight = torch.nn.Parameter(torch.zeros(_PROBE_BYTES // 8, 2, device=worker.device))
        weight.grad = torch.zeros_like(weight)
        optimizers.append(build_optimizer(config, [weight]))
    jobs = [partial(_timed, one.step, worker.device) for one, worker in zip(optimizers, workers, strict=True)]
    futures = [worker.submit(job) for worker, job in zip(workers, jobs, strict=True)]
    seconds = max(future.result() for future in futures)
    state = [value for found in optimizers[0].state.values() for value in found.values() if isinstance(value, Tensor)]
    return seconds / _PROBE_BYTES, sum(t.numel() * t.element_size() for t in state) / _PROBE_BYTES


def memory_of_a_device(devices: Sequence[torch.device], ranks_of_host: int) -> int | None:
    """Return the memory that each of a rank's devices has, with so many such ranks on the host; None if unknown.

    A GPU's is what it has in all, a CPU's what the system can give now; logical devices share theirs evenly.
    """
    if devices[0].type == "cuda":
        return min(torch.cuda.mem_get_info(device)[1] // devices.count(device) for device in devices)
    information = Path("/proc/meminfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    if available is None:
        return None
    limits = [available, *_limit_of_group()]
    return min(limits) // len(devices) // ranks_of_host


def _limit_of_group() -> Iterator[int]:
    """Give what is left of the memory of this process's control group, where it has a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
        used = (folder / "memory.current").read_text(encoding="utf-8").strip()
    except OSError:
        return
    if limit != "max":
        yield max(0, int(limit) - int(used))
