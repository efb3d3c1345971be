"""One lock for what makes files together."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from hvd_r2n2.data.sharing import locked


def test_who_waits_is_told_whom_for(tmp_path: Path) -> None:
    said: list[str] = []
    has_said, has_entered = threading.Event(), threading.Event()

    def report(text: str) -> None:
        said.append(text)
        has_said.set()

    def wait() -> None:
        with locked(tmp_path / "folder" / "lock", "making things", "", report, 0.0):
            has_entered.set()

    with locked(tmp_path / "folder" / "lock", "making things", "", report, 0.0):
        thread = threading.Thread(target=wait)
        thread.start()
        assert has_said.wait(30)
        assert not has_entered.is_set()
    thread.join(30)
    assert has_entered.is_set()
    assert said == [f"waiting for process {os.getpid()} on {socket.gethostname()}, which is making things"]
