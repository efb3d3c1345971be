"""Between ranks: Horovod (only this room imports it), its one-process twin, and facts about the launch."""

from hvd_r2n2.comm.averager import GradientAverager
from hvd_r2n2.comm.communicator import Alone, Communicator, JobError
from hvd_r2n2.comm.connect import connect
from hvd_r2n2.comm.devices import RankPlace, choose_devices, gather_places, named_devices, share_of_cores
from hvd_r2n2.comm.ending import abort, leave, run_door
from hvd_r2n2.comm.launch import Launch, find_launcher, launch_environment, launch_facts
from hvd_r2n2.comm.settings import SEGMENTED_RING

__all__ = [
    "SEGMENTED_RING",
    "Alone",
    "Communicator",
    "GradientAverager",
    "JobError",
    "Launch",
    "RankPlace",
    "abort",
    "choose_devices",
    "connect",
    "find_launcher",
    "gather_places",
    "launch_environment",
    "launch_facts",
    "leave",
    "named_devices",
    "run_door",
    "share_of_cores",
]
