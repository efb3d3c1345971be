"""Leaving the job: in good order with a code, or with a message when something is wrong."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from hvd_r2n2.comm.communicator import JobError
from hvd_r2n2.comm.launch import Launch, launch_facts
from hvd_r2n2.common.exit_codes import ExitCode
from hvd_r2n2.common.files import error_text
from hvd_r2n2.common.memory import is_out_of_memory

_SECONDS_FOR_RANK_0 = 1.0
"""What all ranks find wrong, rank 0 says for all of them: the others wait so long, and are ended meanwhile."""

_SECONDS_FOR_THE_OTHER = 3.0
"""A rank that was left alone waits so long before it says so: the launcher ends it meanwhile, and the message of the
rank that failed stays the last."""

_SECONDS_FOR_MPI = 10.0
"""Where MPI itself hangs, this process ends without it."""

_SECONDS_FOR_THE_OTHERS_TO_GO = 3.0
"""Rank 0 waits so long before it gives the launcher a code that makes it end what is left of the job."""


def leave(code: ExitCode) -> NoReturn:
    """End this process with `code` after the ranks have closed; every rank calls it.

    A launcher that sees a code other than 0 ends the other ranks, and may then report how those died. So only rank 0
    has the code, and gives it when the others have had time to go.
    """
    launch = launch_facts()
    if launch.rank:
        sys.exit(ExitCode.DONE)
    if launch.size > 1:
        time.sleep(_SECONDS_FOR_THE_OTHERS_TO_GO)
    sys.exit(code)


def abort(message: str, exit_code: int = ExitCode.FAILED) -> None:
    """Print `message` and end this process and the whole job at once, with `exit_code`; does not return.

    Exiting in good order would shut Horovod down, and the other ranks would bury the message under errors of their
    own. MPI_Abort also ends ranks under launchers (srun) that let the others wait for ever.
    """
    try:
        launch = launch_facts()
    except ValueError:  # that is the message, then
        launch = Launch("python", 0, 1, 0, 1)
    if launch.rank:
        time.sleep(_SECONDS_FOR_RANK_0)
    prefix = f"rank {launch.rank}: " if launch.size > 1 else ""
    # In one piece: print writes the end of the line apart, and launchers would mix the lines of the ranks.
    with suppress(OSError):  # nobody may be left to read it, and the disk may be full
        sys.stderr.write(f"{prefix}{message}\n")
        sys.stderr.flush()
    with suppress(OSError):
        sys.stdout.flush()
    if launch.size > 1 and launch.is_mpi and "horovod.torch" in sys.modules:
        import mpi4py  # only here: on its own, a process must never start MPI

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            last_resort = threading.Timer(_SECONDS_FOR_MPI, os._exit, (exit_code,))
            last_resort.daemon = True
            last_resort.start()
            MPI.COMM_WORLD.Abort(exit_code)
    os._exit(exit_code)


def _open_closed_streams() -> None:
    """Put the null device where this process was started without a standard stream (`>&-`), which is None then.

    In their order, so that each mostly gets its own number again, and no file of a run does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def run_door(program: str, main: Callable[[], None]) -> None:
    """Run a command's `main`; any failure ends the whole job with a message and a non-zero exit code.

    What a user or the machines can cause is one message; anything else is a fault of ours and comes with its
    traceback. A standard stream that is closed is as good as /dev/null.
    """
    _open_closed_streams()
    try:
        main()
    except (ValueError, OSError, JobError, ImportError) as error:
        abort(f"{program}: error: {error_text(error)}")
    except KeyboardInterrupt:
        abort(f"{program}: interrupted", exit_code=ExitCode.INTERRUPTED)
    except Exception as error:
        if is_out_of_memory(error):
            abort(
                f"{program}: error: not enough memory: {error}\n"
                "(where a network computes, a larger train.accumulation or a smaller batch needs less)"
            )
        if type(error).__name__ == "HorovodInternalError":
            time.sleep(_SECONDS_FOR_THE_OTHER)
            abort(f"{program}: error: another rank has stopped or cannot be reached ({error})")
        abort(f"{program}: internal error\n{traceback.format_exc()}")
