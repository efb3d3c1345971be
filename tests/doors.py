"""Many short commands of one door: each in a fork of a process that has imported it, which takes most of their time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Launcher, launch_environment

# Gets a command a line and says its exit code.
SERVER = """
import importlib, json, os, sys
from hvd_r2n2.comm import run_door
name = sys.argv[1]
main = importlib.import_module(name).main
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["cwd"])
        for number, path in enumerate(order["streams"]):
            os.dup2(os.open(path, os.O_RDWR), number)
        sys.argv[1:] = order["arguments"]
        run_door(name, main)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def forking(door: str) -> Iterator[Launcher]:
    """Give what runs commands of a door, such as `hvd_r2n2.train`, one at a time, with its output captured as text.

    They should end before they compute: threads that the process had would be missing in its forks.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, door],
            env=launch_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        streams = ["/dev/null", f"{folder}/out", f"{folder}/err"]

        def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
            for path in streams[1:]:
                Path(path).write_text("")
            arguments = [str(word) for word in words]
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps({"arguments": arguments, "cwd": str(cwd or "."), "streams": streams}) + "\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(
                [door, *arguments], code, *(Path(path).read_text() for path in streams[1:])
            )

        yield run
