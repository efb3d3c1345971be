"""Short runs of the training command, and what they left."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

TRAIN = ("-m", "hvd_r2n2.train")


def settings(data: Path, **values: object) -> list[str]:
    """Return the arguments of a short training run in float64 on `data`; `section__key=value` changes a setting."""
    short = {
        "data__root": data,
        "model__name": "3d-gru-1",
        "model__width": 1 / 32,
        "train__steps": 10,
        "train__batch_size": 6,
        "train__max_views": 2,
        "train__dtype": "float64",
        "train__cpu_threads": 1,
        "optimizer__warmup_steps": 2,
        "evaluation__views": 2,
        "log__pictures": 0,
        "log__tensorboard": "false",
    }
    arguments = []
    for name, value in (short | values).items():
        arguments += ["--set", f"{name.replace('__', '.')}={value}"]
    return arguments


def weights(run: Path, step: int = 10) -> dict[str, torch.Tensor]:
    """Return the weights of a run's checkpoint."""
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


# Runs the training command, but this process gets a signal at certain calls of a certain function.
SIGNALLED = """
import importlib, os, signal, sys
number, module, name, rank = signal.Signals["SIG" + sys.argv[1]], sys.argv[2], sys.argv[3], sys.argv[4]
times = [int(text) for text in sys.argv[5].split(",")]
sys.argv[1:6] = []
owner = importlib.import_module(module)
for part in name.split(".")[:-1]:
    owner = getattr(owner, part)
attribute = name.split(".")[-1]
original, calls = getattr(owner, attribute), 0
def replacement(*arguments, **keywords):
    global calls
    calls += 1
    own = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("HOROVOD_RANK", "0"))
    if calls in times and own == rank:
        os.kill(os.getpid(), number)
    return original(*arguments, **keywords)
setattr(owner, attribute, replacement)
from hvd_r2n2.comm import run_door
from hvd_r2n2.train import main
run_door("hvd_r2n2.train", main)
"""
