"""One worker a local device: a thread that runs what it is handed, with the device's own settings."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch


class Worker:
    """A thread for one device: its own intra-op thread count on a CPU, its own stream on a GPU.

    A context manager; no thread outlives `close`, unless it hangs.
    """

    def __init__(self, number: int, device: torch.device, num_threads: int) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._num_threads = num_threads
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"hvd_r2n2-split-{number}", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Start a job after those handed over before; its result or error is in the future."""
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        return future

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread when its jobs are done. May be called twice."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def follow(self, devices: Iterable[torch.device]) -> None:
        """Let what is handed over from now on start after all that the calling thread has given these GPUs so far."""
        if self.stream is not None:
            for device in devices:
                self.stream.wait_stream(torch.cuda.current_stream(device))

    def lead(self) -> None:
        """Let what the calling thread gives the GPU from now on start after all that has been handed over."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def on_device(self) -> AbstractContextManager[Any]:
        """Give the context in which the device's work is issued."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    @contextmanager
    def after(self, others: Iterable[Worker]) -> Iterator[None]:
        """Issue work to this device that starts when all that the others have been given so far has ended."""
        with self.on_device():
            for other in others:
                if self.stream is not None and other.stream is not None and other is not self:
                    self.stream.wait_stream(other.stream)
            yield

    def _run(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(self._num_threads)  # OpenMP keeps it for each thread apart
        else:
            torch.cuda.set_device(self.device)  # or each rank would also take memory of the first GPU
        while (item := self._jobs.get()) is not None:
            job, future = item
            try:
                with self.on_device():
                    future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            del item, job, future  # whatever they hold must not wait for the next job

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
