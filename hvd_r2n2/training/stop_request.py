"""A signal that asks training to stop: noted when it comes, and heeded at the end of a step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from typing_extensions import Self


class StopRequest:
    """Notes that a signal has come, from its entry on; the signal has no other effect, however often it comes.

    A signal reaches single ranks, some or all of them, and each at another moment: what this rank has noted is
    nothing to act upon before all ranks have put theirs together (`Engine.step`).
    """

    def __init__(self, name: str | None) -> None:
        """Wait for the signal of this name, such as `USR1`; for none with None."""
        self._signal = None if name is None else signal.Signals[f"SIG{name}"]
        self._has_come = False

    @property
    def has_come(self) -> bool:
        """Whether this rank was asked."""
        return self._has_come

    def __enter__(self) -> Self:
        if self._signal is not None:
            signal.signal(self._signal, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signal is not None:
            # Not what it was before: a second signal would end the process, which is about to end with a code that
            # says more.
            signal.signal(self._signal, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._has_come = True
