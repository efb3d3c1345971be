"""The built-in shapes on disk, in ShapeNet's layout: made on all cores, resumable, one writer at a time."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from hvd_r2n2.common.extras import require
from hvd_r2n2.common.files import read_json, replacing
from hvd_r2n2.data.binvox import MAX_RESOLUTION
from hvd_r2n2.data.categories import CATEGORIES, find_category
from hvd_r2n2.data.layout import ModelRef, rendering_path, voxel_path
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.data.shapes import SHAPES_VERSION
from hvd_r2n2.data.shapes_worker import PICTURES, VOXELS, ModelJob
from hvd_r2n2.data.sharing import locked, num_cores

SETTINGS_FILE = "shapes.json"
_LOCK_FILE, _PARTIAL_FOLDER = ".shapes.lock", ".shapes.partial"
_MAX_MODELS, _MAX_VIEWS = 100_000, 100
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class WrittenShapes:
    """What a call of `write_shapes` asked for (`num_models`, `num_pictures`) and what it made of that itself."""

    num_models: int
    num_new_models: int
    num_pictures: int
    new_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Settings:
    """What one folder has one value of."""

    version: int
    seed: int
    num_views: int


def model_id(category: str, seed: int, index: int) -> str:
    """Return the folder name of a built-in model; ids sort in the order of the index."""
    return f"{find_category(category).name}-{seed}-{index:05d}"


def write_shapes(
    root: str | os.PathLike[str],
    models_per_category: int,
    *,
    categories: Sequence[str] | None = None,
    seed: int = 0,
    num_views: int = 24,
    resolution: int = 32,
    processes: int | None = None,
    report: Callable[[str], None] = lambda text: None,
    head_start_s: float = 0.0,
) -> WrittenShapes:
    """Write built-in models under `root` as `ShapeNetRendering/…` and `ShapeNetVox<resolution>/…`.

    What is whole already stays; what is missing is made, by one process a core (`processes`: None takes the cores
    this process may use).  The files depend on seed, category and index alone.  Another process that writes to the
    same root is waited for; where something is missing, one is given `head_start_s` seconds to begin with it.
    `report` is told so, and how far the making is.

    Raises:
        ValueError: a number out of range, an unknown category, or a root that holds other data or another seed,
            number of views or version of the shapes.
        OSError: root cannot be written.
        ModuleNotFoundError: the libraries of hvd_r2n2[shapes] are not installed.
    """
    start_s = time.monotonic()
    _check_range("models per category", models_per_category, 1, _MAX_MODELS)
    _check_range("seed", seed, 0, 2**63 - 1)
    _check_range("number of views", num_views, 1, _MAX_VIEWS)
    _check_range("voxel resolution", resolution, 2, MAX_RESOLUTION)
    if processes is not None:
        _check_range("number of processes", processes, 1, 4096)
    synsets = _chosen_synsets(categories)
    folder = Path(root).absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; the shapes need a folder")
    # By index first, so that a set that is not finished yet holds all categories alike.
    wanted = [(synset, index) for index in range(models_per_category) for synset in synsets]
    settings = _Settings(SHAPES_VERSION, seed, num_views)
    if _is_complete(folder, settings, wanted, resolution):
        return WrittenShapes(len(wanted), 0, len(wanted) * num_views, 0, time.monotonic() - start_s)
    doing, hint = f"writing shapes to {folder}", "choose a folder on a local disk"
    with locked(folder / _LOCK_FILE, doing, hint, report, head_start_s):
        _settle(folder, settings)
        jobs = _all_missing(folder, settings, wanted, resolution)
        new_bytes = 0
        if jobs:
            report(f"making {len(jobs)} built-in shapes in {folder}")
        with (
            show_progress("making shapes", len(jobs), report) as advance,
            closing(_make(folder, jobs, processes or num_cores())) as sizes,
        ):
            for num_bytes in sizes:
                new_bytes += num_bytes
                advance(1)
    return WrittenShapes(len(wanted), len(jobs), len(wanted) * num_views, new_bytes, time.monotonic() - start_s)


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} {value} is out of range: it must be {low} to {high}")


def _chosen_synsets(categories: Sequence[str] | None) -> list[str]:
    if categories is None:
        return list(CATEGORIES)
    chosen = {find_category(name).synset for name in categories}
    if not chosen:
        raise ValueError("no category is chosen: name at least one, or leave the choice out for all 13")
    return [synset for synset in CATEGORIES if synset in chosen]


def _settle(folder: Path, settings: _Settings) -> None:
    """Record the folder's settings, or check that they are the recorded ones."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        strange = [child.name for child in sorted(folder.iterdir()) if child.name.startswith("ShapeNet")]
        if strange:
            raise ValueError(
                f"{folder} holds {', '.join(strange)} but no {SETTINGS_FILE}: it is not a folder of built-in shapes;"
                " choose another folder"
            )
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(settings)) + "\n", encoding="ascii")
        return
    try:
        recorded = _Settings(**read_json(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a record of built-in shapes: {error}") from error
    for name, value in asdict(settings).items():
        found = asdict(recorded)[name]
        if found != value:
            raise ValueError(
                f"{folder} holds built-in shapes of {name.replace('_', ' ')} {found}, not {value}; "
                f"choose another folder, or {name.replace('_', ' ')} {found}"
            )


def _is_complete(folder: Path, settings: _Settings, wanted: Sequence[tuple[str, int]], resolution: int) -> bool:
    """Tell without the lock whether there is nothing to do, nor anything that a killed run has left."""
    try:
        recorded = _Settings(**read_json(folder / SETTINGS_FILE))
    except (OSError, ValueError, TypeError):
        return False
    is_left = (folder / _PARTIAL_FOLDER).exists()
    return recorded == settings and not is_left and not _all_missing(folder, settings, wanted, resolution)


def _all_missing(
    folder: Path, settings: _Settings, wanted: Sequence[tuple[str, int]], resolution: int
) -> list[ModelJob]:
    """Return what is still to be made of the models, (synset, index) each."""
    jobs = (_missing(folder, synset, settings.seed, index, settings.num_views, resolution) for synset, index in wanted)
    return [job for job in jobs if job is not None]


def _places(folder: Path, synset: str, name: str, resolution: int) -> tuple[Path, Path]:
    """Return the final folders of a model's pictures and voxels."""
    ref = ModelRef(synset, name)
    return rendering_path(folder, ref).parent, voxel_path(folder, ref, resolution).parent


def _missing(folder: Path, synset: str, seed: int, index: int, num_views: int, resolution: int) -> ModelJob | None:
    """Return what is still to be made of a model, or None."""
    pictures, voxels = _places(folder, synset, model_id(synset, seed, index), resolution)
    needs_pictures, needs_voxels = not pictures.exists(), not voxels.exists()
    if not needs_pictures and not needs_voxels:
        return None
    return ModelJob(synset, seed, index, num_views, resolution, needs_pictures, needs_voxels, folder="")


def _publish(folder: Path, job: ModelJob) -> None:
    """Move a whole model's folders to their final names."""
    places = _places(folder, job.synset, model_id(job.synset, job.seed, job.index), job.resolution)
    for made, place in zip((PICTURES, VOXELS), places, strict=True):
        source = Path(job.folder) / made
        if source.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            source.rename(place)
    shutil.rmtree(job.folder)


def _make(folder: Path, jobs: Sequence[ModelJob], num_processes: int) -> Generator[int, None, None]:
    """Make models and yield each one's bytes when it is under its final name; leave nothing half made."""
    partial = folder / _PARTIAL_FOLDER
    # What a killed run left; one of its workers may still be writing there, so it may exist again at once.
    shutil.rmtree(partial, ignore_errors=True)
    if not jobs:
        return
    for module_name in ("trimesh", "embreex.rtcore_scene", "scipy.ndimage"):
        require(module_name)
    partial.mkdir(exist_ok=True)
    try:
        with closing(_run(jobs, partial, min(num_processes, len(jobs)))) as results:
            for job, num_bytes in results:
                _publish(folder, job)
                yield num_bytes
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(jobs: Sequence[ModelJob], partial: Path, num_processes: int) -> Generator[tuple[ModelJob, int], None, None]:
    """Yield each job and its bytes as it is done; the workers are ended when the iterator is.

    One thread a worker hands it one job after the other.  Only this process renames folders: a worker that outlives
    it by a moment can leave nothing under a final name.
    """
    waiting: queue.SimpleQueue[ModelJob] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[tuple[ModelJob, int] | BaseException] = queue.SimpleQueue()
    workers = [_start_worker() for _ in range(num_processes)]
    threads = [threading.Thread(target=_feed, args=(worker, waiting, done, partial)) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        for worker in workers:
            worker.communicate()


def _start_worker() -> "subprocess.Popen[str]":
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "hvd_r2n2.data.shapes_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
    )


def _feed(
    worker: "subprocess.Popen[str]",
    waiting: "queue.SimpleQueue[ModelJob]",
    done: "queue.SimpleQueue[tuple[ModelJob, int] | BaseException]",
    partial: Path,
) -> None:
    """Hand jobs to a worker until there are none, or one fails."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            return
        name = model_id(job.synset, job.seed, job.index)
        try:
            placed = ModelJob(**{**asdict(job), "folder": tempfile.mkdtemp(prefix=f"{name}-", dir=partial)})
            worker.stdin.write(json.dumps(asdict(placed)) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"the process making {name} ended early, with status {worker.wait()}")
            done.put((placed, _written_bytes(name, line)))
        except (OSError, UnicodeError) as error:
            done.put(OSError(f"making {name}: {error}"))
            return
        except RuntimeError as error:
            done.put(error)
            return


def _written_bytes(name: str, line: str) -> int:
    """Read a worker's answer: the bytes of the model's files.

    Raises:
        RuntimeError: the worker says what has failed, or the line is no answer.
    """
    try:
        answer = json.loads(line)
        if "error" not in answer:
            return int(answer["bytes"])
        failure = f"{answer['error']}: {answer['message']}"
    except (ValueError, TypeError, KeyError):
        failure = f"its process wrote {line.strip()[:200]!r} instead of an answer"
    raise RuntimeError(f"making {name}: {failure}")
