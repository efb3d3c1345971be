"""Where a run's figures, lines, pictures and meshes go; on ranks other than 0, nowhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Console, train.log, metrics.jsonl, TensorBoard and pictures/ of one run.

    Figures of the same step may be given in several calls; a resumed run takes back what was recorded after the
    step it goes on from, so that each step stands there once. A context manager; an error of writing names the file.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int,
        start_step: int,
        *,
        is_root: bool,
        is_under_launcher: bool,
        tensorboard: bool,
    ) -> None:
        """Open the files in `folder`; `start_step` steps are done already.

        Under a launcher lines are plain: mpirun gives its ranks a terminal of its own, whatever the output goes to.

        Raises:
            OSError: no permission or no room.
        """
        self._is_root = is_root
        self._progress: Progress | None = None
        if not is_root:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with ExitStack() as stack:
            self._log = (folder / "train.log").open("a", encoding="utf-8", buffering=1)
            _close_at_end(stack, folder / "train.log", self._log.close)
            self._metrics = _open_metrics(folder / "metrics.jsonl", start_step)
            _close_at_end(stack, folder / "metrics.jsonl", self._metrics.close)
            self._writer = _open_events(folder / "tensorboard", start_step, stack) if tensorboard else None
            self._open = stack.pop_all()
        force_terminal = False if is_under_launcher else None
        self._console = Console(highlight=False, soft_wrap=True, force_terminal=force_terminal)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=total_steps, completed=start_step)
            self._progress.start()

    def line(self, text: str) -> None:
        """Print a line and keep it in train.log."""
        if not self._is_root:
            return
        self._console.print(text, markup=False)
        self._console.file.flush()
        self._keep_line(text)

    def step(self, step: int, text: str, is_logged: bool) -> None:
        """Show how far the run is: a live line on a terminal; elsewhere a plain line where `is_logged`."""
        if not self._is_root:
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
            if is_logged:
                self._keep_line(f"step {step}  {text}")
        elif is_logged:
            self.line(f"step {step}  {text}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record figures of a step, the same in metrics.jsonl and TensorBoard."""
        if not self._is_root:
            return
        with _naming(self._folder / "metrics.jsonl"):
            self._metrics.write(json.dumps({"step": step, **values}) + "\n")
            self._metrics.flush()
        if self._writer is not None:
            with _naming(self._folder / "tensorboard"):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture_HW3: npt.NDArray[np.uint8]) -> None:
        """Keep a picture as pictures/NAME-step-N.png and in TensorBoard."""
        if not self._is_root:
            return
        path = self._folder / "pictures" / f"{name}-step-{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        with _naming(path):
            Image.fromarray(picture_HW3).save(path)
        if self._writer is not None:
            with _naming(self._folder / "tensorboard"):
                self._writer.add_image(name, picture_HW3, step, dataformats="HWC")

    def mesh(self, step: int, name: str, vertices_P3: npt.NDArray[np.float64], faces_F3: npt.NDArray[np.int64]) -> None:
        """Put a triangle mesh into TensorBoard's mesh tab."""
        if self._is_root and self._writer is not None and len(faces_F3):
            with _naming(self._folder / "tensorboard"):
                self._writer.add_mesh(
                    name,
                    vertices=np.asarray(vertices_P3, dtype=np.float32)[None],
                    faces=np.asarray(faces_F3, dtype=np.int32)[None],
                    global_step=step,
                )

    def close(self) -> None:
        """Write everything out."""
        if not self._is_root:
            return
        if self._progress is not None:
            self._progress.stop()
        self._open.close()
        sys.stdout.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        # On a full disk these fail too, and must not replace the message of what failed first.
        with suppress(OSError):
            self._keep_line(f"stopped by {kind.__name__}: {error}")
        with suppress(OSError):
            self.close()

    def _keep_line(self, text: str) -> None:
        if not self._is_root:
            return
        with _naming(self._folder / "train.log"):
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it, which the system does not do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _close_at_end(stack: ExitStack, path: Path, close: Callable[[], None]) -> None:
    stack.enter_context(_naming(path))
    stack.callback(close)


def _open_events(folder: Path, start_step: int, stack: ExitStack) -> SummaryWriter:
    """Open TensorBoard's writer, without what `start_step` is followed by; `stack` closes it."""
    before = threading.excepthook

    def quiet(arguments: threading.ExceptHookArgs) -> None:
        # The writer's thread hands its error to the next call, and need not print its traceback as well.
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            before(arguments)

    stack.callback(setattr, threading, "excepthook", before)
    threading.excepthook = quiet
    with _naming(folder):
        writer = SummaryWriter(str(folder), purge_step=start_step + 1)
    _close_at_end(stack, folder, writer.close)
    return writer


def _open_metrics(path: Path, start_step: int) -> TextIO:
    """Open metrics.jsonl for more, without lines after `start_step` or a last line cut short by a crash."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("step", 0) <= start_step:
                kept.append(line + "\n")
    partial = path.with_name(".metrics.partial")
    with _naming(path):
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
    return path.open("a", encoding="utf-8")
