"""Measures what a network costs on a rank's devices: calls of every strategy, contention, copies, the optimizer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from hvd_r2n2.common.memory import available_memory_bytes
from hvd_r2n2.config import Config, OptimizerConfig
from hvd_r2n2.models import Network
from hvd_r2n2.split import Plan, SplitOptions
from hvd_r2n2.split.costs import Costs, Machine, Part, PartCosts, TensorSize, measured_parts, tensor_sizes
from hvd_r2n2.split.planner import DATA_PARALLEL, ONE_DEVICE, Job, balanced_cuts, data_parallel_program
from hvd_r2n2.split.program import Program
from hvd_r2n2.split.rehearsal import Performance, Rehearsal, unit_program
from hvd_r2n2.split.simulation import slowdown
from hvd_r2n2.split.worker import Worker
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.optimizer import build_optimizer
from hvd_r2n2.training.precision import autocast

_PROBE_BYTES = 64 * 2**20
"""Size of what is copied, added and moved to find out how fast that is."""
_NUM_HANDOVERS = 200
_WEIGHTS_LATER = "one device, gradients of weights apart"
_REPEATS = 3


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure."""

    num_runs: int = 3
    """Runs of which the median is taken; with none, only memory is counted and nothing takes time."""
    seconds_a_run: float = 20.0
    """About how long one may take: it decides on the numbers of samples that are tried (1 and 2 always are, and as many
    as `spatial` needs)."""
    data_parallel: bool = True
    """Whether to measure what data parallelism on all devices at once is like; else it is like the splits."""


def measure_costs(
    config: Config,
    job: Job,
    devices: Sequence[torch.device],
    threads_per_device: int,
    *,
    strategies: Sequence[str],
    cut: tuple[str, ...] | None,
    schedule: str | None,
    ranks_of_host: int,
    effort: Effort,
    report: Callable[[str], None],
) -> Costs:
    """Measure on this rank alone, with random inputs; the network's weights stay as they are, its gradients do not.

    Args:
        config: gives the arithmetic and the optimizer.
        job: what is to be planned; its network lies on the first device.
        devices: the rank's, in order.
        threads_per_device: of each CPU device.
        strategies: of which the calls are measured, as far as they are possible for the network.
        cut: of a pipeline, if it is not to be chosen.
        schedule: of a pipeline, if it is not to be chosen.
        ranks_of_host: ranks that share its memory.
        effort: how thoroughly to measure.
        report: told what is being done.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(n, device, threads_per_device)) for n, device in enumerate(devices)]
        memory_bytes, is_shared = memory_of(devices, ranks_of_host)
        bench = _Bench(config, job, workers, strategies, cut, schedule)
        sizes = bench.sizes(effort)
        tried = ", ".join(map(str, sorted(set(sizes))))
        report(f"measuring the layers with {tried} sample(s) of {job.view_counts[-1]} view(s)")
        costs = bench.costs(sizes, effort)
    if devices[0].type == "cuda":
        torch.cuda.empty_cache()  # what it keeps is of streams that are gone
        for device in set(devices):
            torch.cuda.reset_peak_memory_stats(device)
    machine = replace(costs.machine, memory_bytes=memory_bytes, memory_is_shared=is_shared)
    return replace(costs, machine=machine)


class _Bench:
    def __init__(
        self,
        config: Config,
        job: Job,
        workers: Sequence[Worker],
        strategies: Sequence[str],
        cut: tuple[str, ...] | None,
        schedule: str | None,
    ) -> None:
        self._config, self._job, self._workers, self._strategies = config, job, workers, strategies
        self._cut, self._schedule = cut, schedule
        self._stages, self._num_views = job.stages, job.view_counts[-1]
        self._options = SplitOptions(autocast=lambda device: autocast(config.train.dtype, device))

    def sizes(self, effort: Effort) -> tuple[int, ...]:
        """Choose micro-batches to try: 1, 2, 4, … as far as time and samples go, and 1 again.

        The last one shows what is done once a step. Where there are fewer views than devices, one has a sample for each
        device: `spatial` leaves smaller ones to the first device, and what the others do would stay unknown.
        """
        num_devices = len(self._workers)
        needs_samples = "spatial" in self._strategies and self._num_views < num_devices
        fewest = min(num_devices, self._job.num_samples) if needs_samples else 1
        if not effort.num_runs:
            return (fewest,)
        first = self._rehearse(unit_program(self._stages, (1,), self._num_views))
        first.run()
        most = max(4.0, effort.seconds_a_run / first.run())  # samples
        sizes = [1]
        while 2 * sizes[-1] <= self._job.num_samples and sum(sizes) + 2 * sizes[-1] + 1 <= most:
            sizes.append(2 * sizes[-1])
        if sizes[-1] < fewest:
            sizes.append(fewest)
        return (*sizes, 1)

    def costs(self, sizes: tuple[int, ...], effort: Effort) -> Costs:
        """Measure everything, in turn, so that drifts of the machine concern all alike."""
        programs = {ONE_DEVICE: unit_program(self._stages, sizes, self._num_views), **dict(self._programs(sizes))}
        rehearsals = {name: self._rehearse(program) for name, program in programs.items()}
        for rehearsal in rehearsals.values():
            rehearsal.run()
        performances: dict[str, Performance] = {}
        slowdowns = defaultdict[str, list[float]](list)
        for number in range(effort.num_runs):
            alone = {name: rehearsal.run() for name, rehearsal in rehearsals.items()}
            if not number and len(self._workers) > 1:
                performances = self._performances(programs, self._costs(programs, rehearsals), effort)
                for performance in performances.values():
                    performance.run()
            for name, performance in performances.items():
                # Data are parallel where every device does what one does alone.
                factor = len(self._workers) if name == DATA_PARALLEL else 1
                slowdowns[name].append(slowdown(performance.run(), factor * alone.get(name, alone[ONE_DEVICE])))
        machine = self._machine(rehearsals[ONE_DEVICE].between_s)
        machine = replace(machine, slowdowns={name: median(found) for name, found in slowdowns.items()})
        return replace(self._costs(programs, rehearsals), machine=machine)

    def _programs(self, sizes: tuple[int, ...]) -> Iterator[tuple[str, Program]]:
        """Give a program of each strategy whose calls are not those of one device, if it is possible."""
        if "pipeline" in self._strategies and self._schedule in (None, "zero-bubble"):
            yield _WEIGHTS_LATER, unit_program(self._stages, sizes, self._num_views, weights_later=True)
        for strategy in self._strategies:
            if strategy != "pipeline" and len(self._workers) > 1:
                # Whoever ranks the strategies says why one is not.
                with suppress(ValueError):
                    yield strategy, self._program(Plan(strategy, sizes))

    def _program(self, plan: Plan) -> Program:
        assert isinstance(plan.micro_batches, tuple)
        return plan.program(self._stages, len(self._workers), sum(plan.micro_batches), self._num_views)

    def _costs(self, programs: Mapping[str, Program], rehearsals: Mapping[str, Rehearsal]) -> Costs:
        """Put together what has been measured of calls."""
        parts: dict[Part, PartCosts] = {}
        tensors: dict[str, TensorSize] = {}
        for name, rehearsal in rehearsals.items():
            parts |= measured_parts(programs[name], self._stages, rehearsal.takes())
            tensors |= tensor_sizes(programs[name], self._stages, rehearsal.outputs)
        views = {stage.name: stage.views for stage in self._stages}
        return Costs(parts, views, tensors, recompute=self._config.train.recompute)

    def _performances(self, programs: Mapping[str, Program], costs: Costs, effort: Effort) -> dict[str, Performance]:
        """Prepare every strategy on all devices."""
        sizes = programs[ONE_DEVICE].micro_batches
        together = {name: program for name, program in programs.items() if name not in (ONE_DEVICE, _WEIGHTS_LATER)}
        if effort.data_parallel:
            together[DATA_PARALLEL] = data_parallel_program(self._stages, len(self._workers), sizes, self._num_views)
        if "pipeline" in self._strategies:
            with suppress(ValueError):
                cut = self._cut or balanced_cuts(self._job, costs)[0]
                together["pipeline"] = self._program(Plan("pipeline", sizes, cut, schedule=self._schedule or "1f1b"))
        return {
            name: Performance(
                self._job.model, self._stages, program, self._inputs(program), self._workers, self._options
            )
            for name, program in together.items()
        }

    def _rehearse(self, program: Program) -> Rehearsal:
        model, stages, inputs = self._job.model, self._stages, self._inputs(program)
        return Rehearsal(model, stages, program, inputs, self._workers[0], self._options)

    def _inputs(self, program: Program) -> dict[str, Tensor]:
        model, device = self._job.model, self._workers[0].device
        assert isinstance(model, Network)
        return random_inputs(self._config, model, sum(program.micro_batches), self._num_views, device)

    def _machine(self, task_s: float) -> Machine:
        workers = self._workers
        copy_s, local_s = _copy_seconds(workers)
        update_s, state_bytes = _update_seconds(self._config.optimizer, workers)
        is_shared = workers[0].device.type == "cpu"
        return Machine(
            task_s=task_s,
            handover_s=_handover_seconds(workers),
            copy_s_per_byte=copy_s,
            # Through memory that processes share: in, the sum, and out again. Between GPUs: a ring.
            exchange_s_per_byte=4 * local_s if is_shared else 2 * (len(workers) - 1) / len(workers) * copy_s,
            norm_s_per_byte=_norm_seconds(workers[0].device),
            update_s_per_byte=update_s,
            state_bytes_per_byte=state_bytes,
        )


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


def memory_of(devices: Sequence[torch.device], ranks_of_host: int) -> tuple[int | None, bool]:
    """Return the memory that each of a rank's devices has, and whether it is that of all of them together.

    A GPU's is what it has in all; a CPU's what the system can give now to each of so many ranks, None if unknown.
    """
    is_shared = len(set(devices)) == 1
    if devices[0].type == "cuda":
        counts = [1 if is_shared else devices.count(device) for device in devices]
        totals = [torch.cuda.mem_get_info(device)[1] for device in devices]
        return min(total // count for total, count in zip(totals, counts, strict=True)), is_shared
    available = available_memory_bytes()
    return (None if available is None else available // ranks_of_host), is_shared
