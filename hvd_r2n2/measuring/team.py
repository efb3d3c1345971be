"""The worker processes of one arm: started once, told what to do, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from uuid import uuid4

from hvd_r2n2.comm import JobError, find_launcher
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import (
    Done,
    Failure,
    Hello,
    Job,
    Order,
    Profiled,
    ProfiledStep,
    Ready,
    Release,
    Step,
)
from hvd_r2n2.measuring.mortal import die_with_parent
from hvd_r2n2.measuring.networks import rank_command
from hvd_r2n2.measuring.operations import Profile

_WORKER = (sys.executable, "-m", "hvd_r2n2.measuring.worker")
_LIMIT_S = 1800.0
_START_LIMIT_S = 180.0
_GRACE_S = 10.0
_LAST_LINES = 20
T = TypeVar("T")


class Team:
    """The processes of an arm; a context manager.

    Between orders they wait for the next one. Ranks of Horovod would go on asking each other for work, half of a core
    each: they are stopped meanwhile.
    """

    def __init__(self, arm: ArmSpec, machine: Machine, folder: Path) -> None:
        """Start them, without waiting until they are there; `folder` is for sockets and what they print.

        Raises:
            ValueError: there is no mpirun.
        """
        self.arm = arm
        self._machine, self._folder = machine, folder
        self._num_jobs = 0
        self._pids: list[int] = []
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = folder / f"{arm.name}.log"
        self._path = folder / uuid4().hex[:8]  # short, for systems allow a hundred letters
        self._server = socket.socket(socket.AF_UNIX)
        try:
            self._server.bind(str(self._path))
            self._server.listen()
            self._start()
        except BaseException:
            self.close(at_once=True)
            raise

    def prepare(self, arm: ArmSpec, config: Config) -> Ready:
        """Have them make network and optimizer for the arm, or a variant of it with the same processes.

        Raises:
            JobError: one of them could not, or has ended.
        """
        if not self._connections:
            self._accept()
        own = self._machine.settings(arm, config)
        self._num_jobs += 1
        store = str(self._folder / f"{arm.name}.{self._num_jobs}.store")
        size = arm.processes
        jobs = [Job(arm.kind, own, size, self._machine.cores_of(arm, rank), store, arm.bursts) for rank in range(size)]
        replies = self._ask(jobs, Ready)
        if size == 1:
            return replies[0]
        return Ready(tuple(f"{self._machine.device_type}:{rank}" for rank in range(size)), replies[0].notes)

    def step(self, num_views: int) -> list[Done]:
        """Have all take one step at once; return what it was like for each."""
        return self._ask([Step(num_views)] * self.arm.processes, Done)

    def profile(self, num_views: int) -> Profile:
        """Have all take steps at once with every operation watched; return where the time went in the first process."""
        return self._ask([ProfiledStep(num_views)] * self.arm.processes, Profiled)[0].profile

    def release(self) -> None:
        """Have them give freed memory back to the system."""
        self._ask([Release()] * self.arm.processes, Ready)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, in good order or at once. May be called twice."""
        self._pause(signal.SIGCONT)
        for connection in self._connections:
            with suppress(OSError):
                if not at_once:
                    connection.send(None)
                connection.close()
        self._connections.clear()
        for process in self._processes:
            if at_once:
                # mpirun must end its ranks itself, a worker of ours may be in the middle of a step.
                process.send_signal(signal.SIGTERM if self.arm.is_under_mpirun else signal.SIGKILL)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._pids.clear()
        self._processes.clear()
        self._server.close()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)

    def _start(self) -> None:
        if self.arm.is_under_mpirun:
            mpirun = find_launcher("mpirun")
            if mpirun is None:
                raise ValueError(f"arm {self.arm.name}: there is no mpirun (scripts/setup.sh installs it)")
            words = (str(mpirun), "--oversubscribe", "--bind-to", "none", "-np", str(self.arm.processes))
            worker, files = (*_WORKER, str(self._path)), self._folder / f"{self.arm.name}.net"
            self._launch(rank_command(self.arm.network, words, self.arm.processes, worker, files), None)
            return
        for rank in range(self.arm.processes):
            self._launch((*_WORKER, str(self._path), str(rank)), rank)

    def _launch(self, command: Sequence[str], rank: int | None) -> None:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(self._machine.environment(self.arm, rank)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard is for the benchmark alone
                preexec_fn=die_with_parent,
            )
        self._processes.append(process)

    def _accept(self) -> None:
        """Wait until every process is there; order them by rank."""
        found: list[tuple[int, int, Connection]] = []
        deadline = time.monotonic() + _START_LIMIT_S
        self._server.settimeout(0.2)
        while len(found) < self.arm.processes:
            try:
                accepted = self._server.accept()[0]
            except TimeoutError:
                if any(process.poll() is not None for process in self._processes):
                    raise JobError(self._words("a process ended before it was ready")) from None
                if time.monotonic() > deadline:
                    raise JobError(self._words(f"its processes were not there after {_START_LIMIT_S:g} s")) from None
                continue
            accepted.setblocking(True)
            connection = Connection(accepted.detach())
            self._connections.append(connection)
            hello = self._receive(connection, Hello)
            found.append((hello.rank, hello.pid, connection))
        found.sort(key=lambda item: item[0])
        self._pids = [pid for _, pid, _ in found]
        self._connections = [connection for _, _, connection in found]
        self._pause(signal.SIGSTOP)

    def _ask(self, orders: Sequence[Order], reply: type[T]) -> list[T]:
        """Send each process its order and wait for all replies."""
        self._pause(signal.SIGCONT)
        try:
            for connection, order in zip(self._connections, orders, strict=True):
                connection.send(order)
        except BrokenPipeError:
            raise JobError(self._words("a process has ended")) from None
        replies: dict[Connection, T] = {}
        deadline = time.monotonic() + _LIMIT_S
        while len(replies) < len(self._connections):
            missing = [connection for connection in self._connections if connection not in replies]
            ready = wait(missing, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise JobError(self._words(f"no answer within {_LIMIT_S:g} s"))
            for connection in (connection for connection in missing if connection in ready):
                replies[connection] = self._receive(connection, reply)
        self._pause(signal.SIGSTOP)
        return [replies[connection] for connection in self._connections]

    def _receive(self, connection: Connection, reply: type[T]) -> T:
        try:
            received = connection.recv()
        except (EOFError, ConnectionError):
            raise JobError(self._words("a process has ended")) from None
        if isinstance(received, Failure):
            raise JobError(f"arm {self.arm.name}: {received.text}")
        assert isinstance(received, reply), received
        return received

    def _pause(self, what: signal.Signals) -> None:
        if self.arm.is_under_mpirun:
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, what)

    def _words(self, what: str) -> str:
        """Add the last lines that the processes printed."""
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):  # an end that is under way says more
                process.wait(1.0)
        codes = [str(process.returncode) for process in self._processes if process.returncode is not None]
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        exits = f" (exit code {', '.join(codes)})" if codes else ""
        return "\n".join([f"arm {self.arm.name}: {what}{exits}", *lines])
