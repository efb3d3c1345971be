"""Where the caches lie and how they come to be: one builder at a time, all cores, old ones removed."""

import errno
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from hvd_r2n2.data.cache import CacheKey, CategoryCache
from hvd_r2n2.data.cache_writer import PARTIAL_SUFFIXES, CacheWriter
from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.decode import CHANNELS, DecodedModel, decode_model
from hvd_r2n2.data.layout import ModelRef
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.data.sharing import locked, map_in_order, num_cores

CACHE_FOLDER = "hvd_r2n2_cache"
Report = Callable[[str], None]

_LOCK_NAME = "lock"
# Processes decode on all cores but take seconds to start; threads share one interpreter and gain only half as much
# again (measured: 2 threads decode 1.4 times as many pictures a second as one).
_MIN_PICTURES_FOR_PROCESSES = 40_000
_NUM_ESTIMATE_MODELS = 12
_ROOM_TO_SPARE = 1.05
_WRITE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cache_folder(root: Path, cache_dir: str | None) -> Path:
    """Return the folder of a data set's caches: beside the data, or a folder of its own under `data.cache_dir`."""
    if cache_dir is None:
        return root / CACHE_FOLDER
    real = root.resolve()
    return Path(cache_dir).expanduser() / f"{real.name}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:12]}"


def open_or_build(
    root: Path,
    folder: Path,
    wanted: Mapping[CacheKey, Sequence[ModelRef]],
    report: Report,
    head_start_s: float = 0.0,
) -> dict[str, CategoryCache]:
    """Open the cache of each category, by synset, after building those that are missing, stale or damaged.

    Processes may call this at the same time: one builds, the others wait for it and then open what it made. A build
    that is interrupted keeps the models it has finished: the next one goes on after them. Where there is something to
    build, another process is given so many seconds to begin with it.

    Raises:
        ValueError: the caches cannot be written there, or there is not enough room.
    """
    opened = {key: _try_open(folder, key, refs, lambda message: None) for key, refs in wanted.items()}
    if any(cache is None for cache in opened.values()):
        with building(folder, report, head_start_s):
            opened = {key: cache or _try_open(folder, key, wanted[key], report) for key, cache in opened.items()}
            missing = {key: wanted[key] for key, cache in opened.items() if cache is None}
            _remove_stale(folder, wanted)
            if missing:
                _build(root, folder, missing, report)
            opened = {key: cache or CategoryCache(folder / key.file_name, key) for key, cache in opened.items()}
    return {key.synset: cache for key, cache in opened.items() if cache is not None}


def _try_open(folder: Path, key: CacheKey, refs: Sequence[ModelRef], report: Report) -> CategoryCache | None:
    path = folder / key.file_name
    try:
        cache = CategoryCache(path, key)
        if cache.model_ids != tuple(ref.model_id for ref in refs):
            raise ValueError(f"{path}: its models are not those of the data")
        return cache
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        # Whatever is wrong with a cache, building it anew is right; the data themselves are the source.
        report(f"{error}; it is built anew")
        return None


@contextmanager
def building(folder: Path, report: Report, head_start_s: float) -> Iterator[None]:
    """Hold the lock of the folder of caches, which is made, and say what to do where it cannot be written.

    Raises:
        ValueError: it cannot be written, the disk is full, or its file system has no locks.
    """
    doing, hint = f"building the cache in {folder}", "set data.cache_dir to a folder on a local disk"
    try:
        with locked(folder / _LOCK_NAME, doing, hint, report, head_start_s):
            yield
    except OSError as error:
        if error.errno in _WRITE_ERRORS:
            raise ValueError(
                f"cannot write the decoded cache to {folder}: {error.strerror}; "
                "set data.cache_dir to a folder that can be written"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ValueError(
                f"the disk of {folder} is full: {error.strerror}; make room, or set data.cache_dir to another disk"
            ) from error
        raise


def _remove_stale(folder: Path, wanted: Mapping[CacheKey, Sequence[ModelRef]]) -> None:
    """Remove what other contents of these categories left, finished or not.

    A process that has mapped a removed file keeps it until it ends.
    """
    current = {key.file_name for key in wanted}
    families = tuple(key.family for key in wanted)
    for path in folder.iterdir():
        whole = path.stem if path.suffix in PARTIAL_SUFFIXES else path.name
        if whole.endswith(".cache") and whole.startswith(families) and whole not in current:
            path.unlink(missing_ok=True)


def _build(root: Path, folder: Path, missing: Mapping[CacheKey, Sequence[ModelRef]], report: Report) -> None:
    start = time.monotonic()
    with ExitStack() as stack:
        writers = {
            key: stack.enter_context(CacheWriter(folder / key.file_name, key, [ref.model_id for ref in refs]))
            for key, refs in missing.items()
        }
        rest = {key: refs[writers[key].num_recovered :] for key, refs in missing.items()}
        num_recovered = sum(writer.num_recovered for writer in writers.values())
        if num_recovered:
            report(f"going on after {num_recovered:,} models that an interrupted build has decoded")
        _check_room(folder, _expected_bytes(root, rest, writers), report)
        num_models = sum(map(len, rest.values()))
        executor = stack.enter_context(_executor(sum(key.num_views * len(refs) for key, refs in rest.items())))
        advance = stack.enter_context(show_progress("decoding models", num_models, report))
        for key, refs in rest.items():
            for model in map_in_order(executor, partial(_decode, root, key), refs):
                writers[key].add(model)
                advance(1)
            writers[key].finish()
    report(f"decoded {num_models:,} models in {time.monotonic() - start:.0f} s")


def _check_room(folder: Path, expected: int, report: Report) -> None:
    free = shutil.disk_usage(folder).free
    report(f"writing {_size(expected)} of decoded data to {folder}, {_size(free)} free")
    if expected * _ROOM_TO_SPARE > free:
        raise ValueError(
            f"the cache needs {_size(expected)}, but the disk of {folder} has {_size(free)} free; "
            "make room, or set data.cache_dir to another disk"
        )


def _decode(root: Path, key: CacheKey, ref: ModelRef) -> DecodedModel:
    return decode_model(root, ref, key.voxel_resolution, key.num_views)


def _expected_bytes(
    root: Path, rest: Mapping[CacheKey, Sequence[ModelRef]], writers: Mapping[CacheKey, CacheWriter]
) -> int:
    """Estimate what is still to be written, by category from the models that are, or else from a few of the rest."""
    total = 0.0
    for key, refs in rest.items():
        if writers[key].num_recovered:
            total += writers[key].payload_bytes / writers[key].num_recovered * len(refs)
            continue
        step = max(1, len(refs) * len(rest) // _NUM_ESTIMATE_MODELS)
        chosen = refs[::step]
        sizes = [len(_decode(root, key, ref).payload) for ref in chosen]
        whole = [size for size in sizes if size]
        # Where all of the chosen are broken, count the pictures uncompressed.
        mean = sum(whole) / len(whole) if whole else key.num_views * IMAGE_SIZE**2 * CHANNELS
        total += mean * len(refs)
    return int(total)


@contextmanager
def _executor(num_pictures: int) -> Iterator[Executor]:
    workers = num_cores()
    executor: Executor
    if num_pictures < _MIN_PICTURES_FOR_PROCESSES or workers == 1:
        executor = ThreadPoolExecutor(workers, thread_name_prefix="hvd_r2n2-decode")
    else:
        # Not forked: a rank may hold MPI, CUDA and threads.
        executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_serve_parent)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _serve_parent() -> None:
    """Leave Ctrl-C, which a terminal sends to all, to the process that started this one, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
