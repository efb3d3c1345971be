"""Where a run's figures, lines, pictures and meshes go; on ranks other than 0, nowhere."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from hvd_r2n2.common.files import replacing
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.terminals import can_draw


class RunLog:
    """Console, train.log, metrics.jsonl, TensorBoard and pictures/ of one run.

    Lines may be given from the start, all else from `begin` on. Figures of the same step may be given in several calls.
    A context manager. What cannot be opened is an error; what cannot be written later, on a full disk, say, is left out
    with a warning, and training goes on.
    """

    def __init__(self, folder: Path, *, is_root: bool, is_under_launcher: bool) -> None:
        """Open train.log in `folder`; the figures of an older run there stay as they are.

        Under a launcher lines are plain: mpirun gives its ranks a terminal of its own, whatever the output goes to. So
        they are on a terminal that can only add to its text (TERM=dumb), where rich draws nothing.

        Raises:
            OSError: no permission or no room.
        """
        self._is_root = is_root
        self._is_live = not is_under_launcher and can_draw(sys.stdout)
        self._progress: Progress | None = None
        self._writer: SummaryWriter | None = None
        self._failing: set[str] = set()
        self._open = ExitStack()
        if not is_root:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = self._open.enter_context(closing(_Lines(folder / "train.log")))

    def begin(self, start_step: int, total_steps: int, *, tensorboard: bool) -> None:
        """Open the files of figures; `start_step` steps are done already.

        A resumed run takes back what was recorded after the step it goes on from, so that each step stands there once.

        Raises:
            OSError: no permission or no room.
        """
        if not self._is_root:
            return
        _take_back(self._folder / "metrics.jsonl", start_step)
        self._metrics = self._open.enter_context(closing(_Lines(self._folder / "metrics.jsonl")))
        if tensorboard:
            self._writer = self._open_events(start_step)
        if self._is_live:
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(highlight=False, soft_wrap=True, force_terminal=True),
            )
            self._task = self._progress.add_task("", total=total_steps, completed=start_step)
            self._progress.start()

    def line(self, text: str) -> None:
        """Print a line and keep it in train.log."""
        if not self._is_root:
            return
        with self.going_on("the output"):
            if self._progress is not None:
                self._progress.console.print(text, markup=False)
            else:
                # Not by rich: it ends the process where a pipe is closed, and says a line again that failed.
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
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
        with self.going_on("metrics.jsonl"):
            self._metrics.add(json.dumps({"step": step, **values}))

        def add_all(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self._add_event(add_all)

    def picture(self, step: int, name: str, picture_HW3: npt.NDArray[np.uint8]) -> None:
        """Keep a picture as pictures/NAME-step-N.png and in TensorBoard."""
        if not self._is_root:
            return
        path = self._folder / "pictures" / f"{name}-step-{step:08d}.png"
        with self.going_on("pictures"):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as partial:
                Image.fromarray(picture_HW3).save(partial, format="PNG")
        self._add_event(lambda writer: writer.add_image(name, picture_HW3, step, dataformats="HWC"))

    def mesh(self, step: int, name: str, vertices_P3: npt.NDArray[np.float64], faces_F3: npt.NDArray[np.int64]) -> None:
        """Put a triangle mesh into TensorBoard's mesh tab."""
        if self._is_root and len(faces_F3):
            vertices_1P3 = np.asarray(vertices_P3, dtype=np.float32)[None]
            faces_1F3 = np.asarray(faces_F3, dtype=np.int32)[None]
            self._add_event(
                lambda writer: writer.add_mesh(name, vertices=vertices_1P3, faces=faces_1F3, global_step=step)
            )

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Turn an error of writing `what`, a file of the run or its output, into a warning, told once until it ends."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                self._warn(f"{what}: {error.strerror or error}; training goes on without what belongs there")
        else:
            if what in self._failing:
                self._failing.remove(what)
                self._warn(f"{what}: can be written again")

    def close(self) -> None:
        """Write everything out."""
        if not self._is_root:
            return
        output = "the output"
        with suppress(OSError) if output in self._failing else self.going_on(output):
            try:
                if self._progress is not None:
                    self._progress.stop()
            finally:
                _empty(sys.stdout)
        self._open.close()
        with suppress(OSError):
            _empty(sys.stderr)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._keep_line(f"stopped by {kind.__name__}: {error}")
        self.close()

    def _keep_line(self, text: str) -> None:
        if self._is_root:
            with self.going_on("train.log"):
                self._log.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def _warn(self, text: str) -> None:
        say(f"warning: {self._folder}: {text}")

    def _add_event(self, add: Callable[[SummaryWriter], None]) -> None:
        """Give TensorBoard's writer something; once it has failed it gets no more, since its thread has ended."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        with self.going_on("tensorboard"):
            add(writer)
            self._writer = writer

    def _open_events(self, start_step: int) -> SummaryWriter:
        """Open TensorBoard's writer, without what `start_step` is followed by."""
        before = threading.excepthook

        def quiet(arguments: threading.ExceptHookArgs) -> None:
            # The writer's thread hands its error to the next call, and need not print its traceback as well.
            if not type(arguments.thread).__module__.startswith("tensorboard."):
                before(arguments)

        self._open.callback(setattr, threading, "excepthook", before)
        threading.excepthook = quiet
        folder = self._folder / "tensorboard"
        with _naming(folder):
            writer = SummaryWriter(str(folder), purge_step=start_step + 1)

        def close() -> None:
            with suppress(OSError) if self._writer is None else self.going_on("tensorboard"):
                writer.close()

        self._open.callback(close)
        return writer


class _Lines:
    """A text file to which whole lines are added, or nothing where the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def add(self, line: str) -> None:
        """Add a line.

        Raises:
            OSError: no room or no permission; names the file.
        """
        content = f"{line}\n".encode()
        with _naming(self._path):
            before = os.fstat(self._file.fileno()).st_size
            if self._file.write(content) < len(content):
                os.ftruncate(self._file.fileno(), before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _empty(stream: TextIO) -> None:
    """Write out what a stream holds; drop it where that fails, or Python fails on it, too, when the process ends.

    Raises:
        OSError: it could not be written.
    """
    try:
        stream.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an error of writing it, which the system does not do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _take_back(path: Path, start_step: int) -> None:
    """Take lines after `start_step`, and a last line cut short by a crash, out of metrics.jsonl."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("step", 0) <= start_step:
                kept.append(line + "\n")
    with replacing(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")
