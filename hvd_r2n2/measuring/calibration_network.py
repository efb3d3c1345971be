"""One network of `plan scale --calibrate`: allreduces measured, a link fitted to them, steps predicted and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from types import TracebackType
from typing import Any

from hvd_r2n2.common.statistics import Spread
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ONE_DEVICE, ArmSpec
from hvd_r2n2.measuring.bursts import Burst
from hvd_r2n2.measuring.comparison import find_disturbed
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.networks import check_network, rate_of
from hvd_r2n2.measuring.result import ArmResult
from hvd_r2n2.measuring.rounds import measure, started
from hvd_r2n2.measuring.team import Team
from hvd_r2n2.scaling.calibration import Point, Polling, Shared, burst_s, fit_link, predict_shared
from hvd_r2n2.scaling.links import Link
from hvd_r2n2.scaling.overlap import Fusion
from hvd_r2n2.scaling.workload import Workload
from hvd_r2n2.training.machine_costs import Effort

_BURSTS = tuple(
    Burst(count, size * 1024)
    for count, size in ((1, 4), (16, 4), (16, 64), (4, 1024), (1, 4096), (1, 16384), (1, 65536))
)
_LARGE = 2**20
"""Bytes from which a tensor tells how much of a core its transfer takes."""
_LONGEST_S = 0.7
"""Of a burst over a slow line, about: longer ones are left out."""


def fusion_of(config: Config) -> Fusion:
    """Return the settings of Horovod that ranks on CPUs have."""
    return Fusion(threshold_bytes=0).with_settings(config.horovod)


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure, and how thoroughly."""

    networks: tuple[str, ...]
    ranks: tuple[int, ...]
    """Numbers of ranks; 1 is measured in any case."""
    rounds: int
    warmup: int
    largest_bytes: int
    """Of the tensors of allreduces alone."""
    effort: Effort
    """Of measuring the layers."""
    command: str
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        for name, value in (
            ("--rounds", self.rounds),
            ("--warmup", self.warmup),
            ("--largest-mib", self.largest_bytes // 2**20),
        ):
            if value < 1:
                raise ValueError(f"{name} {value} is not possible (1 or more)")
        for network in self.networks:
            check_network(network)
        if self.ranks[-1] < 2:
            raise ValueError("--ranks: calibrating needs 2 ranks or more")


class NetworkCalibration:
    """Ranks that talk over one network; a context manager, in which they are there."""

    def __init__(
        self, config: Config, machine: Machine, num_views: int, request: CalibrationRequest, network: str
    ) -> None:
        self._stack = ExitStack()
        self._teams: Mapping[str, Team] = {}
        self._config, self._machine, self._num_views = config, machine, num_views
        self._request, self._network = request, network
        self._counts = [count for count in request.ranks if count > 1]
        rate = rate_of(network)
        self._bursts = tuple(
            burst
            for burst in _BURSTS
            if burst.size <= request.largest_bytes
            and (rate is None or 2 * burst.count * burst.size / rate <= _LONGEST_S)
        )

    def __enter__(self) -> NetworkCalibration:
        self._teams = self._stack.enter_context(started(self._step_arms(), self._machine))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def bursts(self) -> dict[int, Bursts]:
        """Measure allreduces alone; return them by number of ranks. One rank only computes."""
        arms = [replace(arm, kind="allreduce", bursts=self._bursts) for arm in self._step_arms()]
        return {result.arm.processes: Bursts(result) for result in self._measure(arms)}

    def polling(self, found: Mapping[int, Bursts], slowdown: float) -> dict[int, Polling]:
        """Return, by number of ranks, how much less they compute than as many cores would that have no ranks to ask.

        By `slowdown` cores are slower where all of them compute, such as hyperthreads of one core: that is no polling.
        """
        large = [number for number, burst in enumerate(self._bursts) if burst.size >= _LARGE]
        shares = {}
        for count in self._counts:
            own, cores = found[count], min(count, self._machine.num_devices)
            sending = [share for number in large for share in own.lost_shares(number)]
            shares[count] = Polling(
                looking=max(0.0, 1 - slowdown * own.work_per_s / (found[1].work_per_s * cores)),
                sending=min(1.0, max(0.0, median(sending))) if sending else 1.0,
            )
        return shares

    def fit(self, found: Mapping[int, Bursts]) -> tuple[Link, list[dict[str, Any]]]:
        """Return the link that goes with what was measured, and that beside what the link gives."""
        points = [
            Point(count, burst.count, burst.size, median(own.times_s(number)))
            for count, own in found.items()
            if count > 1
            for number, burst in enumerate(self._bursts)
        ]
        cycle_s, cores = fusion_of(self._config).cycle_s, self._machine.num_devices
        share = 1.0 if rate_of(self._network) is None else 0.0  # cores copy, a line does not need them
        link = fit_link(self._network, points, cores=cores, processor_share=share, cycle_s=cycle_s)
        fitted = [burst_s(link, point.num_ranks, point.count, point.size, cycle_s) for point in points]
        own = [(found[count], number) for count in self._counts for number in range(len(self._bursts))]
        return link, [
            {
                "network": self._network,
                "ranks": point.num_ranks,
                "tensors": point.count,
                "bytes": point.size,
                "times_s": bursts.times_s(number),
                "median_s": point.seconds,
                "lost_share": median(bursts.lost_shares(number)),
                "fitted_s": seconds,
                "error": seconds / point.seconds - 1,
            }
            for point, seconds, (bursts, number) in zip(points, fitted, own, strict=True)
        ]

    def steps(
        self, workload: Workload, shared: Shared, link: Link, polling: Mapping[int, Polling]
    ) -> list[dict[str, Any]]:
        """Predict training steps, then measure them in turn.

        The machine's drift since its layers were measured is in each `error`, but not in `relative_error`: that of the
        ratio to one rank's step.
        """
        counts, fusion = [1, *self._counts], fusion_of(self._config)
        predicted = {
            count: predict_shared(workload, link, shared, count, fusion, polling.get(count, Polling()))
            for count in counts
        }
        entries, results = [], self._measure(self._step_arms())
        disturbed = find_disturbed(results, self._machine, self._request.report)
        ratio_of_one = predicted[1].step_s / Spread.of(results[0].times_s).median
        for result in results:
            count = result.arm.processes
            step, times = predicted[count], Spread.of(result.times_s)
            ratio = step.step_s / times.median
            exposed = [min(done.communication_s for done in one) for one in result.steps]
            checked = {"disturbed": bool(disturbed)} if count == 1 else {}  # of several ranks it cannot be told
            entries.append(
                {
                    "network": self._network,
                    "ranks": count,
                    "samples_of_a_rank": self._config.train.batch_size // count,
                    "predicted_s": step.step_s,
                    "predicted": asdict(step),
                    "median_s": times.median,
                    "quartiles_s": list(times.quartiles),
                    "times_s": result.times_s,
                    "exposed_s": median(exposed),
                    **checked,
                    "processor_s": median(sum(done.cpu_s for done in one) for one in result.steps),
                    "error": ratio - 1,
                    "relative_error": ratio / ratio_of_one - 1,
                }
            )
        return entries

    def _step_arms(self) -> list[ArmSpec]:
        ranks = [ArmSpec(f"ranks-{count}", "horovod", count, network=self._network) for count in self._counts]
        return [ArmSpec(ONE_DEVICE), *ranks]

    def _measure(self, arms: Sequence[ArmSpec]) -> tuple[ArmResult, ...]:
        self._request.report(f"{self._network}: {arms[-1].kind}, 1 to {arms[-1].processes} ranks")
        return measure(
            arms,
            self._config,
            self._machine,
            num_views=self._num_views,
            rounds=self._request.rounds,
            warmup=self._request.warmup,
            report=self._request.report,
            teams=self._teams,
        ).results


class Bursts:
    """The bursts of an arm, by number."""

    def __init__(self, result: ArmResult) -> None:
        self._steps = [[done.allreduces for done in step] for step in result.steps]

    @property
    def work_per_s(self) -> float:
        """Give the products a second of all ranks together while there is nothing to average."""
        return median(sum(times.work_per_s for times in step) for step in self._steps)

    def times_s(self, number: int) -> list[float]:
        """Return, by round, how long the burst took once the last rank had handed it over."""
        every = [[times.bursts[number] for times in step] for step in self._steps]
        return [max(one.end_s for one in step) - max(one.start_s for one in step) for step in every]

    def lost_shares(self, number: int) -> list[float]:
        """Return, by round, by how much less ranks computed meanwhile, in parts of the time that it takes alone."""
        lost = [
            fmean(times.bursts[number].busy_s - times.bursts[number].work / times.work_per_s for times in step)
            for step in self._steps
        ]
        return [one / seconds for one, seconds in zip(lost, self.times_s(number), strict=True)]
