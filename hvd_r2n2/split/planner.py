"""Finds how a step is best split: candidates of every strategy, what each comes to, and which is best and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import combinations, pairwise
from statistics import fmean

import torch
from torch import Tensor, nn

from hvd_r2n2.common.memory import DeviceMemory
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split.costs import Costs, Machine
from hvd_r2n2.split.network import STRATEGIES, Plan
from hvd_r2n2.split.program import Piece, Program, TaskTime, one_at_a_time, spread
from hvd_r2n2.split.rehearsal import unit_program
from hvd_r2n2.split.shards import Shards
from hvd_r2n2.split.simulation import bubble_share, busy_shares, simulate

ONE_DEVICE = "one device"
DATA_PARALLEL = "data parallel"

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_MOST_CUTS = 6
_MOST_CHUNKS = 4
_BALANCED = 1.25
"""Cuts are tried whose busiest device has at most so many times the work of the best one's."""


@dataclass(frozen=True)
class Wanted:
    """What candidates may be like: None leaves the choice open."""

    strategies: tuple[str, ...] = STRATEGIES
    cut: tuple[str, ...] | None = None
    micro_batches: int | tuple[int, ...] | None = None
    view_chunks: int | None = None
    schedule: str | None = None
    may_stay_whole: bool = True
    """Whether one device alone may be chosen."""


@dataclass(frozen=True)
class Job:
    """What is to be planned."""

    model: nn.Module
    stages: tuple[Stage, ...]
    """The network's, ending with the loss."""
    num_devices: int
    num_samples: int
    """That a rank has at a time."""
    view_counts: tuple[int, ...] = (1,)
    """Rising, each as likely as the others; 1 for a network without views."""
    accumulation: int = 1
    """So many times is the program run before the weights are moved."""


@dataclass(frozen=True)
class Prediction:
    """What a candidate comes to."""

    name: str
    """Its strategy, or one of those that are no split."""
    plan: Plan | None
    """None where nothing is split."""
    micro_batches: tuple[int, ...]
    """Samples of each, on one device."""
    step_s_by_views: dict[int, float]
    """Time of a step with each number of views, the optimizer's work included."""
    tasks: tuple[TaskTime, ...]
    """Of a step with the most views."""
    memory: tuple[DeviceMemory, ...]
    """Of each device, at most."""
    bytes_moved: float
    """From device to device, in a step with the most views."""
    machine: Machine
    """Where."""

    @property
    def step_s(self) -> float:
        """Mean time of a step."""
        return fmean(self.step_s_by_views.values())

    @property
    def bubble(self) -> float:
        """Share of the devices' time in which they wait for one another, before the optimizer."""
        return bubble_share(self.tasks, len(self.memory))

    @property
    def busy(self) -> tuple[float, ...]:
        """Share of each device."""
        return busy_shares(self.tasks, len(self.memory))

    @property
    def peak_bytes(self) -> int:
        """Memory of the device that needs most."""
        return max(device.peak_bytes for device in self.memory)

    @property
    def fits(self) -> bool:
        """Whether every device has the memory for it."""
        limit = self.machine.memory_bytes
        needed = sum(d.peak_bytes for d in self.memory) if self.machine.memory_is_shared else self.peak_bytes
        return limit is None or needed <= limit


@dataclass(frozen=True)
class Ranking:
    """All candidates, the best first; those that do not fit come last, the smallest first."""

    predictions: tuple[Prediction, ...]
    impossible: dict[str, str]
    """By strategy: why the network cannot be split so."""
    choosable: tuple[str, ...]
    """Names of the candidates that a rank can choose from; data parallelism takes another number of ranks."""

    @property
    def choice(self) -> Prediction:
        """Give the best that can be chosen."""
        return next(one for one in self.predictions if one.name in self.choosable)

    def best(self, name: str) -> Prediction | None:
        """Give the best candidate of a name; None if there is none."""
        return next((one for one in self.predictions if one.name == name), None)


def rank(job: Job, costs: Costs, wanted: Wanted | None = None) -> Ranking:
    """Predict every candidate and sort by the time of a step; also one device alone, and data parallelism.

    Raises:
        ValueError: none of the strategies wanted is possible.
    """
    planner, wanted = _Planner(job, costs), wanted or Wanted()
    found = [one for count in sorted({1, job.num_devices}) for one in planner.unsplit(count)]
    impossible = {}
    for strategy in wanted.strategies:
        try:
            found += [planner.predict(plan) for plan in planner.plans(strategy, wanted)]
        except ValueError as error:
            impossible[strategy] = str(error)
    if wanted.micro_batches is None:
        found += planner.refined([one for one in found if one.name == "pipeline"])
    if len(impossible) == len(wanted.strategies):
        raise ValueError("; ".join(impossible.values()))
    found.sort(key=_place)
    return Ranking(tuple(found), impossible, (*wanted.strategies, *[ONE_DEVICE] * wanted.may_stay_whole))


def predict(job: Job, costs: Costs, plan: Plan) -> Prediction:
    """Give what a plan comes to.

    Raises:
        ValueError: it is not possible.
    """
    return _Planner(job, costs).predict(plan)


def predict_whole(job: Job, costs: Costs, num_devices: int, micro_batches: tuple[int, ...]) -> Prediction:
    """Give what one device alone comes to, or several with samples of their own each, in these micro-batches."""
    return _Planner(job, costs).whole(num_devices, micro_batches)


def balanced_cuts(job: Job, costs: Costs) -> list[tuple[str, ...]]:
    """Give the pipeline's cuts that share the work most evenly, the best first.

    Raises:
        ValueError: there are more devices than pieces.
    """
    units = list(_unit_seconds(job, costs).items())
    if len(units) < job.num_devices:
        raise ValueError(
            f"pipeline over {job.num_devices} devices: the network can only be cut into {len(units)} pieces (use "
            f"at most {len(units)} devices)"
        )

    def busiest(cut: tuple[int, ...]) -> float:
        return max(sum(seconds for _, seconds in units[a:b]) for a, b in pairwise([0, *cut, len(units)]))

    best = nsmallest(_MOST_CUTS, combinations(range(1, len(units)), job.num_devices - 1), key=busiest)
    return [tuple(units[n][0] for n in cut) for cut in best if busiest(cut) <= _BALANCED * busiest(best[0])]


def _unit_seconds(job: Job, costs: Costs) -> dict[str, float]:
    """Give the time of the pieces that a pipeline can be cut between, by their first stages, over all view counts."""
    seconds: dict[str, float] = {}
    for views in job.view_counts:
        program = unit_program(job.stages, (job.num_samples,), views)
        for task in program.orders[0]:
            name = program.calls[task.call].piece.stages[0]
            seconds[name] = seconds.get(name, 0.0) + costs.of(program, task).seconds
    return seconds


def data_parallel_program(
    stages: Sequence[Stage], num_devices: int, micro_batches: Sequence[int], num_views: int
) -> Program:
    """Give a program in which every device has all stages and micro-batches of its own, `micro_batches` each."""
    program = unit_program(stages, tuple(micro_batches) * num_devices, num_views)
    calls = []
    for call in program.calls:
        device = call.micro_batch // len(micro_batches)
        piece = replace(call.piece, name=f"{call.piece.name}@{device}", device=device)
        calls.append(replace(call, piece=piece))
    orders = one_at_a_time(calls, num_devices)
    name = DATA_PARALLEL if num_devices > 1 else ONE_DEVICE
    return replace(program, strategy=name, num_devices=num_devices, calls=tuple(calls), orders=orders)


def micro_batch_choices(num_samples: int) -> list[tuple[int, ...]]:
    """Give ways to cut samples into micro-batches: nearly equal ones, and such with small ones first and last.

    Small ones at the ends let a pipeline's other devices start sooner and the first ones end later.
    """
    counts = [count for count in _COUNTS if count <= num_samples]
    choices = [spread(num_samples, count) for count in counts]
    for count in counts:
        for ramp in ((1,), (1, 3)):
            if count >= 2 * len(ramp) + 1:
                weights = (*ramp, *[sum(ramp) + (len(ramp) == 1)] * (count - 2 * len(ramp)), *reversed(ramp))
                choices.append(_apportioned(num_samples, weights))
    return [sizes for sizes in dict.fromkeys(choices) if min(sizes) > 0]


def _apportioned(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Cut a number in proportion to weights, symmetrically where that is possible."""
    sizes = [total * weight // sum(weights) for weight in weights]
    middle_out = sorted(range(len(sizes)), key=lambda number: abs(number - (len(sizes) - 1) / 2))
    for number in middle_out[: total - sum(sizes)]:
        sizes[number] += 1
    return tuple(sizes)


class _Planner:
    def __init__(self, job: Job, costs: Costs) -> None:
        self._job, self._costs = job, costs
        self._weights: dict[frozenset[Piece], tuple[DeviceMemory, ...]] = {}

    def plans(self, strategy: str, wanted: Wanted) -> Iterator[Plan]:
        """Give the candidates of a strategy."""
        num_samples = self._job.num_samples
        choices = micro_batch_choices(num_samples)
        if wanted.micro_batches is not None:
            choices = [Plan(strategy, wanted.micro_batches).sizes(num_samples)]
        elif strategy != "pipeline":  # nothing flows in at the start or out at the end, so equal ones are best
            choices = [sizes for sizes in choices if sizes == spread(num_samples, len(sizes))]
        if strategy == "pipeline":
            yield from self._pipelines(choices, wanted)
        else:
            yield from (Plan(strategy, _short(sizes)) for sizes in choices)

    def _pipelines(self, choices: Sequence[tuple[int, ...]], wanted: Wanted) -> Iterator[Plan]:
        most_views = max(self._job.view_counts)
        chunks = [wanted.view_chunks or 0]
        if wanted.view_chunks is None:
            chunks = sorted({*range(1, min(most_views, _MOST_CHUNKS) + 1), most_views})
        schedules = ("zero-bubble",) if self._costs.have_weights_apart else ()
        schedules = ("1f1b", *schedules, "fill-drain") if wanted.schedule is None else (wanted.schedule,)
        for cut in balanced_cuts(self._job, self._costs) if wanted.cut is None else [wanted.cut]:
            for sizes in choices:
                # With a single micro-batch there is nothing to choose between the schedules.
                for schedule in schedules if len(sizes) > 1 else schedules[:1]:
                    yield from (Plan("pipeline", _short(sizes), cut, count, schedule) for count in chunks)

    def refined(self, pipelines: Sequence[Prediction]) -> Iterator[Prediction]:
        """Give pipelines whose micro-batches have better sizes: those of the best of each schedule, changed sample by
        sample as long as that helps.
        """
        best = dict[str, Prediction]()
        for one in sorted(pipelines, key=_place):
            assert one.plan is not None
            best.setdefault(one.plan.schedule, one)
        for start in best.values():
            yield from self._climb(start)

    def _climb(self, best: Prediction) -> Iterator[Prediction]:
        assert best.plan is not None
        sizes = best.micro_batches
        while True:
            others = [self.predict(replace(best.plan, micro_batches=_short(other))) for other in _neighbours(sizes)]
            better = min(others, key=_place, default=best)
            if _place(better) >= _place(best):
                return
            best, sizes = better, better.micro_batches
            yield best

    def predict(self, plan: Plan) -> Prediction:
        """Give what a plan comes to."""
        job = self._job
        check_devices(plan.strategy, job.num_devices)
        sizes = plan.sizes(job.num_samples)
        programs = [plan.program(job.stages, job.num_devices, job.num_samples, views) for views in job.view_counts]
        return self._predict(plan.strategy, plan, sizes, programs)

    def unsplit(self, num_devices: int) -> Iterator[Prediction]:
        """Give what one device alone comes to, or several with a share of the samples each."""
        job = self._job
        if job.num_samples < num_devices:
            return
        share = -(-job.num_samples // num_devices)
        for sizes in (spread(share, count) for count in _COUNTS if count <= share):
            yield self.whole(num_devices, sizes)

    def whole(self, num_devices: int, sizes: tuple[int, ...]) -> Prediction:
        """Give what that comes to in these micro-batches."""
        stages, counts = self._job.stages, self._job.view_counts
        programs = [data_parallel_program(stages, num_devices, sizes, views) for views in counts]
        return self._predict(programs[0].strategy, None, sizes, programs)

    def _predict(self, name: str, plan: Plan | None, sizes: tuple[int, ...], programs: Sequence[Program]) -> Prediction:
        machine = self._costs.machine
        fixed = self._fixed_memory(programs[-1])
        steps = [simulate(program, self._costs) for program in programs]
        played = steps[-1]
        after_s = sum(device.weights for device in fixed) * machine.norm_s_per_byte
        if name == DATA_PARALLEL:  # each device has the norm of all gradients to find, after they are averaged
            after_s = fixed[0].weights * (machine.norm_s_per_byte + machine.exchange_s_per_byte)
        after_s += max(device.weights for device in fixed) * machine.update_s_per_byte
        seconds = [self._job.accumulation * step.seconds + after_s for step in steps]
        memory = tuple(
            replace(device, saved=round(saved)) for device, saved in zip(fixed, played.saved_bytes, strict=True)
        )
        return Prediction(
            name=name,
            plan=plan,
            micro_batches=sizes,
            step_s_by_views=dict(zip(self._job.view_counts, seconds, strict=True)),
            tasks=played.tasks,
            memory=memory,
            bytes_moved=played.bytes_moved,
            machine=machine,
        )

    def _fixed_memory(self, program: Program) -> tuple[DeviceMemory, ...]:
        """Give what each device holds of weights, gradients and the optimizer's state."""
        pieces = frozenset(call.piece for call in program.calls)
        if pieces not in self._weights:
            self._weights[pieces] = self._shards_memory(program)
        return self._weights[pieces]

    def _shards_memory(self, program: Program) -> tuple[DeviceMemory, ...]:
        job, factor = self._job, self._costs.machine.state_bytes_per_byte
        in_order = dict.fromkeys(call.piece for call in program.calls)
        shards = Shards(job.model, job.stages, in_order, [torch.device("meta")] * program.num_devices)
        found = []
        for device in range(program.num_devices):
            weights = _bytes(leaf for shard in shards for leaf in shard.leaves_on(device))
            # A split moves each weight on one device; where data are parallel, every process has its own optimizer.
            moved = _bytes(shard.leaf for shard in shards if shard.device == device)
            state = weights if program.strategy == DATA_PARALLEL else moved
            found.append(DeviceMemory(weights, weights, round(state * factor), 0))
        return tuple(found)


def check_devices(strategy: str, num_devices: int) -> None:
    """Raise a ValueError where a strategy shares each layer between devices and there is one."""
    if strategy in ("kernel", "spatial") and num_devices == 1:
        raise ValueError(f"{strategy} split over 1 device: there is nothing to share (use 2 devices or more)")


def _place(one: Prediction) -> tuple[bool, float, int]:
    """Give what candidates are sorted by."""
    return not one.fits, one.step_s if one.fits else one.peak_bytes, len(one.micro_batches)


def _neighbours(sizes: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Give the sizes of micro-batches from which one sample has gone from one to another."""
    moves = [(a, b) for a in range(len(sizes)) for b in range(len(sizes)) if a != b and sizes[a] > 1]
    return {tuple(size - (n == a) + (n == b) for n, size in enumerate(sizes)) for a, b in moves}


def _short(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    """Give the number of micro-batches if they are nearly equal, else their sizes."""
    return len(sizes) if sizes == spread(sum(sizes), len(sizes)) else sizes


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
