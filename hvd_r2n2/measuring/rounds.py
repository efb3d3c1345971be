"""Arms in turn: each takes one step a round, in another order every round, while the others wait."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch

from hvd_r2n2.common.memory import available_memory_bytes
from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import Config
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import Done, Ready
from hvd_r2n2.measuring.operations import Profile
from hvd_r2n2.measuring.result import ArmResult, step_s
from hvd_r2n2.measuring.team import Team

_TIMED_STEPS_OF_A_TRIAL = 2
_USABLE_MEMORY = 0.8


@dataclass(frozen=True)
class Measurement:
    """What the arms of one run gave."""

    results: tuple[ArmResult, ...]
    is_releasing: bool
    """Whether arms gave their memory back after each step, since all together would not have had enough: each step
    came after as many that were not timed as there are to warm up."""


def choose_accumulation(
    arm: ArmSpec,
    counts: Sequence[int],
    config: Config,
    machine: Machine,
    num_views: int,
    report: Callable[[str], None],
) -> tuple[ArmSpec, Mapping[int, float]]:
    """Try numbers of micro-batches; return the arm with the fastest, and the median step of each in seconds.

    The most come first, for they need the least memory; once there is not enough for fewer, the rest is left out.
    """
    trials: dict[int, float] = {}
    counts = sorted(counts, reverse=True)
    limit = _memory_limit(machine)
    with _folder() as folder, Team(arm, machine, folder) as team:
        for count, following in zip_longest(counts, counts[1:]):
            team.prepare(arm.with_accumulation(count), config)
            team.step(num_views)
            steps = [team.step(num_views) for _ in range(_TIMED_STEPS_OF_A_TRIAL)]
            trials[count] = Spread.of([step_s(step) for step in steps]).median
            report(f"{arm.name}: {count} micro-batch(es): {trials[count]:.3f} s a step")
            if following is None:
                break
            memory = [memory for done in steps[-1] for memory in done.memory]
            needs = [m.peak_bytes + m.saved * (count // following - 1) for m in memory]
            needed = max(needs) if machine.gpus else sum(needs)
            if needed > limit:
                report(f"{arm.name}: fewer micro-batches would need {needed / 2**30:.1f} GiB, they are left out")
                break
    best = min(trials, key=lambda count: trials[count])
    return arm.with_accumulation(best), trials


def measure(
    arms: Sequence[ArmSpec],
    config: Config,
    machine: Machine,
    *,
    num_views: int,
    rounds: int,
    warmup: int,
    report: Callable[[str], None],
    profiled: bool = False,
    teams: Mapping[str, Team] | None = None,
) -> Measurement:
    """Measure `rounds` steps of each arm after `warmup` that do not count.

    If `profiled`, each network then takes a few more steps under the profiler, which do not count for its times.
    `teams` are the arms' processes, by name, where they were `started` before.

    Raises:
        JobError: an arm has failed; the processes of all arms have ended then.
        ValueError: an arm's settings are not possible.
    """
    found: dict[str, list[tuple[Done, ...]]] = {arm.name: [] for arm in arms}
    readies: dict[str, Ready] = {}
    limit = _memory_limit(machine)
    steps = len(arms) * (warmup + rounds)
    with ExitStack() as stack:
        if teams is None:
            teams = stack.enter_context(started(arms, machine))
        advance = stack.enter_context(show_progress("steps", steps, report))
        taken, is_releasing = 0, False
        for number, arm in enumerate(arms):
            team = teams[arm.name]
            readies[arm.name] = team.prepare(arm, config)
            for _ in range(warmup):
                done = team.step(num_views)
                advance(1)
            taken += sum(process.taken_bytes for process in done)
            # The others are as large, so far as is known.
            if is_releasing or taken * len(arms) / (number + 1) > limit:
                for other in arms[: number + 1] if not is_releasing else [arm]:
                    teams[other.name].release()
                is_releasing = True
        for number in range(rounds):
            for name in rotated(list(teams), number):
                if is_releasing:
                    _warm_up(teams[name], num_views, warmup)
                found[name].append(tuple(teams[name].step(num_views)))
                if is_releasing:
                    teams[name].release()
                advance(1)
        networks = [arm.name for arm in arms if arm.kind != "matrix"]
        profiles = _profiles(teams, networks, num_views, warmup) if profiled else {}
    results = tuple(
        ArmResult(
            arm,
            readies[arm.name].devices,
            readies[arm.name].notes,
            arm.samples(config),
            tuple(found[arm.name]),
            profile=profiles.get(arm.name),
        )
        for arm in arms
    )
    return Measurement(results, is_releasing)


def _profiles(teams: Mapping[str, Team], names: Sequence[str], num_views: int, warmup: int) -> dict[str, Profile]:
    """Profile steps of those named while the others have released their memory, for these take more of it."""
    profiles = {}
    for team in teams.values():
        team.release()
    for name in names:
        _warm_up(teams[name], num_views, warmup)
        profiles[name] = teams[name].profile(num_views)
        teams[name].release()
    return profiles


def _warm_up(team: Team, num_views: int, steps: int) -> None:
    for _ in range(steps):
        team.step(num_views)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: over as many rounds as there are names, each comes once at each place."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def with_trials(
    measurement: Measurement, trials: Mapping[str, Mapping[int, float]], predicted_s: Mapping[str, float]
) -> Measurement:
    """Return the measurement with what was tried and predicted before it, by arm."""
    results = tuple(
        replace(result, trials=trials.get(result.arm.name, {}), predicted_s=predicted_s.get(result.arm.name))
        for result in measurement.results
    )
    return replace(measurement, results=results)


@contextmanager
def started(arms: Sequence[ArmSpec], machine: Machine) -> Iterator[Mapping[str, Team]]:
    """Start the processes of each arm; give them by its name.

    Raises:
        ValueError: there is no mpirun, and an arm needs it.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        yield {arm.name: stack.enter_context(Team(arm, machine, folder)) for arm in arms}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hvd_r2n2-") as folder:
        yield Path(folder)


def _memory_limit(machine: Machine) -> float:
    """Return what may be used of each GPU, or by all processes together where there are none."""
    if machine.gpus:
        return _USABLE_MEMORY * torch.cuda.get_device_properties(0).total_memory
    available = available_memory_bytes()
    return math.inf if available is None else _USABLE_MEMORY * available
