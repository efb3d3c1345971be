"""The exit codes of all commands; slurm/README.md explains them to users."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the number says with which a rank ends.

    `mpirun` and `srun` pass it on; `horovodrun` makes 1 of everything that is not 0.
    """

    DONE = 0
    """All that was asked for is done."""
    FAILED = 1
    """Settings, data, machines or training are wrong; the last message says what. Starting again does not help."""
    USAGE = 2
    """The command line is wrong (argparse's own code)."""
    STOPPED = 85
    """Training was asked to stop, and has kept a checkpoint to go on from: start again with --resume. The number is
    Linux's ERESTART, and is below those that shells use for signals (128 and more)."""
    INTERRUPTED = 130
    """Ctrl-C: 128 and the number of SIGINT, as shells have it."""
