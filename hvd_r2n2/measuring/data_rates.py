"""`benchmark data`: pictures a second from PNG files, from the warm cache, and as batches; one core and two."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hvd_r2n2.comm import JobError
from hvd_r2n2.common.statistics import Spread, spread_of_ratios
from hvd_r2n2.config import Config, to_mapping
from hvd_r2n2.data.cache_build import cache_folder
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.data.shapes_writer import write_shapes
from hvd_r2n2.measuring.data_worker import MOST_DECODED, Answer, Look, Measure, Memory, Order, Rate, Work, serve
from hvd_r2n2.measuring.messages import Failure
from hvd_r2n2.measuring.report import provenance
from hvd_r2n2.measuring.rounds import rotated
from hvd_r2n2.training.data import DEFAULT_MODELS_PER_CATEGORY

_MAX_CORES = 2
_SECTIONS = ("data", "train")


@dataclass(frozen=True)
class Arm:
    """One thing that is measured."""

    name: str
    work: Work
    cores: int
    what: str
    """For people."""


ARMS = (
    Arm("decode", "decode", 1, f"{MOST_DECODED:,} PNG files at most, read before, decoded by Pillow, nothing else"),
    Arm("cache-read", "read", 1, "pictures of one model after the other, from the warm cache into memory"),
    Arm("cache-batch", "batch", 1, "the loader's batches, as a GPU gets them: views, crops and grids drawn and read"),
    Arm("cache-batch-2", "batch", 2, "the same in two processes, as two ranks read"),
    Arm("cache-first", "first", 1, "the same in an epoch that compares each model with its digest, the first one"),
    Arm(
        "cache-float", "float", 1, "the same as cache-batch, then cropped, flipped and coloured to float32 on the core"
    ),
    Arm("cache-float-2", "float", 2, "the same in two processes"),
)


@dataclass(frozen=True)
class ArmRates:
    """What an arm gave."""

    arm: Arm
    rounds: tuple[tuple[Rate, ...], ...]
    """By round and process."""

    @property
    def images_per_s(self) -> list[float]:
        """Pictures a second of all processes together, by round."""
        return [
            sum(rate.images for rate in rates)
            / (max(rate.end_s for rate in rates) - min(rate.start_s for rate in rates))
            for rates in self.rounds
        ]

    @property
    def busy_cores(self) -> float:
        """Processor time over time, of all processes and rounds."""
        times = [rate for rates in self.rounds for rate in rates]
        return self.arm.cores * sum(rate.cpu_s for rate in times) / sum(rate.end_s - rate.start_s for rate in times)


@dataclass(frozen=True)
class DataRequest:
    """How to measure."""

    rounds: int
    """Measured rounds, after one that does not count."""
    seconds: float
    """Of each arm in each round."""
    command: str
    """What to record as the command."""
    report: Callable[[str], None]
    """Takes lines for people."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"--rounds {self.rounds} is not possible (1 or more)")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"--seconds {self.seconds:g} is not possible (more than 0)")


def measure_data(config: Config, request: DataRequest) -> dict[str, Any]:
    """Measure all arms, which take turns, and return all figures as they are written.

    Without data.root built-in shapes are made in a temporary folder first.

    Raises:
        ValueError: the data or settings are not right.
        JobError: a process that measures has failed.
    """
    if config.model.classifies:
        raise ValueError(f"benchmark data: model.name must be a network of 3D-R2N2, not {config.model.name}")
    cores = sorted(os.sched_getaffinity(0))[:_MAX_CORES]
    arms = [arm for arm in ARMS if arm.cores <= len(cores)]
    with _data(config, request.report) as root:
        dataset = open_dataset(config.data, root, config.model.voxel_resolution, request.report)
        caches = list(cache_folder(root, config.data.cache_dir).glob("*.cache"))
        facts = {"models": len(dataset), "pictures": len(dataset) * dataset.num_views}
        facts["cache_bytes"] = sum(path.stat().st_size for path in caches)
        with _Workers(cores, config, root) as workers:
            found = _measure(arms, workers, request)
            memory = [answer for answer in workers.ask([Look()] * len(cores)) if isinstance(answer, Memory)]
    settings = to_mapping(config)
    return {
        "benchmark": "data",
        "arms": entries(found),
        "left_out": {arm.name: f"needs {arm.cores} cores" for arm in ARMS if arm not in arms},
        "memory": [asdict(process) for process in memory],
        "data": facts,
        "rounds": request.rounds,
        "seconds": request.seconds,
        "settings": {name: settings[name] for name in _SECTIONS},
        **provenance(request.command),
    }


def entries(found: Sequence[ArmRates]) -> list[dict[str, Any]]:
    """Return the figures of each arm; those of a core, and their ratio to one core that decodes, by round."""
    decoded = found[0].images_per_s
    assert found[0].arm.work == "decode"
    written = []
    for arm in found:
        rates = arm.images_per_s
        by_core = [rate / arm.arm.cores for rate in rates]
        ratio = spread_of_ratios(decoded, by_core)
        whole = Spread.of(rates)
        written.append(
            {
                "name": arm.arm.name,
                "what": arm.arm.what,
                "cores": arm.arm.cores,
                "images_per_s": whole.median,
                "images_per_s_quartiles": whole.quartiles,
                "images_per_s_a_core": whole.median / arm.arm.cores,
                "of_decode_a_core": ratio.median,
                "of_decode_quartiles": ratio.quartiles,
                "busy_cores": arm.busy_cores,
                "rates": rates,
            }
        )
    return written


def _measure(arms: Sequence[Arm], workers: _Workers, request: DataRequest) -> list[ArmRates]:
    by_name = {arm.name: arm for arm in arms}
    found: dict[str, list[tuple[Rate, ...]]] = {name: [] for name in by_name}
    with show_progress("measurements", (request.rounds + 1) * len(arms), request.report) as advance:
        for number in range(request.rounds + 1):
            for name in rotated(list(by_name), number):
                arm = by_name[name]
                orders = [Measure(arm.work, rank, arm.cores, request.seconds) for rank in range(arm.cores)]
                answers = tuple(answer for answer in workers.ask(orders) if isinstance(answer, Rate))
                if number:  # the first is the warm-up
                    found[name].append(answers)
                advance(1)
    return [ArmRates(arm, tuple(found[arm.name])) for arm in arms]


@contextmanager
def _data(config: Config, report: Callable[[str], None]) -> Iterator[Path]:
    """Give the folder of the data, or one of built-in shapes that is removed in the end."""
    data = config.data
    if data.root is not None:
        yield Path(data.root)
        return
    with tempfile.TemporaryDirectory(prefix="hvd_r2n2-data-") as folder:
        write_shapes(
            folder,
            data.models_per_category or DEFAULT_MODELS_PER_CATEGORY,
            categories=data.categories,
            seed=data.shapes_seed or 0,
            resolution=config.model.voxel_resolution,
            report=report,
        )
        yield Path(folder)


class _Workers:
    """A process a core; a context manager that ends them."""

    def __init__(self, cores: Sequence[int], config: Config, root: Path) -> None:
        context = get_context("spawn")  # not forked: this process has threads
        self._connections: list[Connection] = []
        with ExitStack() as stack:
            for core in cores:
                own, other = context.Pipe()
                self._connections.append(stack.enter_context(own))
                process = context.Process(target=serve, args=(other, core, config, root), daemon=True)
                process.start()
                other.close()
                stack.callback(process.join)
                stack.callback(process.terminate)
            self._open = stack.pop_all()

    def ask(self, orders: Sequence[Order]) -> list[Answer]:
        """Give the first workers an order each, and return their answers.

        Raises:
            JobError: one has failed.
        """
        connections = self._connections[: len(orders)]
        answers: list[Answer] = []
        try:
            for connection, order in zip(connections, orders, strict=True):
                connection.send(order)
            for connection in connections:
                answers.append(connection.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise JobError("a process that measures has ended") from None
        for answer in answers:
            if isinstance(answer, Failure):
                raise JobError(answer.text)
        return answers

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *unused: object) -> None:
        self._open.close()
