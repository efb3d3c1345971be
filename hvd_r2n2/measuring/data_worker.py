"""One process of `benchmark data`, on one core: decodes, reads and makes batches when it is told to."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from hvd_r2n2.common.memory import keep_freed_memory
from hvd_r2n2.config import Config
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.layout import picture_path
from hvd_r2n2.data.loader import Batch, prepare_batch, training_batches
from hvd_r2n2.data.packed import pack
from hvd_r2n2.measuring.messages import Failure
from hvd_r2n2.measuring.mortal import die_first, die_with_parent

Work = Literal["decode", "read", "first", "batch", "float"]

_ENDLESS = 1 << 40
_CPU = torch.device("cpu")
_CACHE_SUFFIX = ".cache"
MOST_DECODED = 2000
"""Pictures, at most, that are decoded again and again: few enough that the system keeps their files in memory."""


@dataclass(frozen=True)
class Measure:
    """To a worker: do this for so long."""

    work: Work
    rank: int
    size: int
    """Processes that share the batches."""
    seconds: float


@dataclass(frozen=True)
class Look:
    """To a worker: say what memory you have."""


@dataclass(frozen=True)
class Rate:
    """From a worker: what it got done."""

    images: int
    start_s: float
    end_s: float
    """On a clock that all processes of the machine share."""
    cpu_s: float
    """Processor time."""


@dataclass(frozen=True)
class Memory:
    """From a worker: the memory of its process, in bytes, as the system counts it."""

    resident: int
    proportional: int
    """Of pages that n processes share, an n-th."""
    private: int
    """Of pages that no other process has."""
    cache_resident: int
    """Of the mapped cache."""
    cache_proportional: int
    batch: int
    """Of what the loader handed over for a step, the last one."""


Order: TypeAlias = "Measure | Look | None"
"""To a worker; None ends it."""
Answer: TypeAlias = "Rate | Memory | Failure"


def serve(connection: Connection, core: int, config: Config, root: Path) -> None:
    """Answer orders until the other end says that it is enough, or is gone."""
    die_with_parent()
    die_first()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one that started this process, and so this one
    keep_freed_memory()  # as training does
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        worker = _Worker(config, root)
        while (order := _receive(connection)) is not None:
            connection.send(worker.rate(order) if isinstance(order, Measure) else worker.memory())
    except BrokenPipeError:
        pass
    except (ValueError, OSError) as error:
        connection.send(Failure(str(error)))


def _receive(connection: Connection) -> Order:
    try:
        order: Order = connection.recv()
    except EOFError:
        return None
    return order


class _Worker:
    def __init__(self, config: Config, root: Path) -> None:
        self._config, self._root = config, root
        self._dataset = self._open()
        # Every page is read once, and every model compared with its digest: what follows finds a warm cache.
        for index in range(len(self._dataset)):
            self._read(index)
        files = _files_to_decode(root, self._dataset)
        for path in files:
            path.read_bytes()
        self._files = cycle(files)
        self._models = cycle(range(len(self._dataset)))
        self._last_batch: Batch | None = None
        self._does: dict[Work, Callable[[Measure], Generator[int, None, None]]] = {
            "decode": lambda order: (_decode(file) for file in self._files),
            "read": lambda order: (self._read(index) for index in self._models),
            "first": self._first,
            "batch": lambda order: self._images(self._dataset, order, self._keep),
            "float": lambda order: self._images(self._dataset, order, lambda batch: prepare_batch(batch, _CPU)),
        }

    def rate(self, order: Measure) -> Rate:
        """Do what is asked for until the time is over, or there is no more of it."""
        images = 0
        work = self._does[order.work](order)
        start_s, cpu_s = time.monotonic(), time.process_time()
        for done in work:
            images += done
            end_s = time.monotonic()
            if end_s - start_s >= order.seconds:
                break
        cpu_s = time.process_time() - cpu_s
        work.close()
        return Rate(images, start_s, end_s, cpu_s)

    def memory(self) -> Memory:
        """Ask the system, and say how large batches were."""
        whole = _kilobytes(Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines())
        mapped = _kilobytes(_lines_of_caches(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()))
        return Memory(
            resident=whole["Rss"],
            proportional=whole["Pss"],
            private=whole["Private_Clean"] + whole["Private_Dirty"],
            cache_resident=mapped["Rss"],
            cache_proportional=mapped["Pss"],
            batch=0 if self._last_batch is None else _bytes_of(self._last_batch),
        )

    def _open(self) -> Dataset:
        return open_dataset(self._config.data, self._root, self._config.model.voxel_resolution, lambda text: None)

    def _read(self, index: int) -> int:
        views = range(self._dataset.num_views)
        return pack([self._dataset.rectangles(index, views)], self._dataset.framing.picture_side).boxes_VB4.shape[0]

    def _first(self, order: Measure) -> Generator[int, None, None]:
        """Open the data set anew, so that no model has been compared with its digest, and read one epoch."""
        dataset = self._open()
        num_steps = max(1, len(dataset.train) // (self._config.train.batch_size * order.size))
        return self._images(dataset, order, end_step=num_steps)

    def _images(
        self,
        dataset: Dataset,
        order: Measure,
        use: Callable[[Batch], object] = lambda batch: None,
        end_step: int = _ENDLESS,
    ) -> Generator[int, None, None]:
        """Use batches; the loader begins to read them when the first is asked for."""
        train, data = self._config.train, self._config.data
        with training_batches(
            dataset,
            indices=dataset.train,
            batch_size=train.batch_size * order.size,  # each process as many as one alone
            rank=order.rank,
            size=order.size,
            seed=train.seed,
            min_views=train.min_views,
            max_views=train.max_views,
            start_step=0,
            end_step=end_step,
            config=data,
        ) as batches:
            for batch in batches:
                use(batch)
                yield batch.num_images

    def _keep(self, batch: Batch) -> None:
        self._last_batch = batch


def _files_to_decode(root: Path, dataset: Dataset) -> list[Path]:
    """Return the pictures of models from all over the data set: neighbours are of one category."""
    every = math.ceil(len(dataset) * dataset.num_views / MOST_DECODED)
    return [picture_path(root, ref, view) for ref in dataset.refs[::every] for view in range(dataset.num_views)]


def _decode(path: Path) -> int:
    with Image.open(path) as picture:
        np.asarray(picture)
    return 1


def _bytes_of(batch: Batch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in batch.tensors())


def _kilobytes(lines: list[str]) -> dict[str, int]:
    """Add up lines such as `Rss:   123 kB`; return bytes by name."""
    found = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
    for line in lines:
        name, _, rest = line.partition(":")
        if name in found:
            found[name] += int(rest.split()[0]) * 1024
    return found


def _lines_of_caches(lines: list[str]) -> list[str]:
    """Return the lines of smaps that are of mapped caches."""
    kept, is_cache = [], False
    for line in lines:
        if "-" in line.partition(" ")[0]:  # the first of a mapping: addresses, then its file
            is_cache = line.endswith(_CACHE_SUFFIX)
        elif is_cache:
            kept.append(line)
    return kept
