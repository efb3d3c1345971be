"""What makes ranks alike, over real ranks."""

from __future__ import annotations

from tests.conftest import Launcher

BROADCAST = """
import torch
from hvd_r2n2.comm import connect
from hvd_r2n2.training.consistency import broadcast_parameters, check_equal, parameter_digest

def network(seed):
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(2))
    layers[0].to(memory_format=torch.channels_last)
    layers.register_parameter("scalar", torch.nn.Parameter(torch.rand(())))
    return layers

communicator = connect()
model = network(communicator.rank)
assert (parameter_digest(model) == parameter_digest(network(0))) == communicator.is_root
broadcast_parameters(communicator, model)
assert parameter_digest(model) == parameter_digest(network(0))
assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
check_equal(communicator, "parameters", parameter_digest(model))
print("alike", flush=True)
communicator.close()
"""


def test_every_rank_gets_the_parameters_of_rank_0_to_the_bit(mpirun: Launcher) -> None:
    done = mpirun(3, "-c", BROADCAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("alike") == 3
