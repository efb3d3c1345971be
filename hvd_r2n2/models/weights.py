"""Weights in and out as safetensors, with what network they are of in the file's metadata."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hvd_r2n2.common.files import replacing
from hvd_r2n2.models.network import Network

# The only entry of the metadata: safetensors writes several in an order that changes from file to file, and equal
# weights are to make equal files.
_METADATA_KEY = "hvd_r2n2"


def save_weights(model: Network, path: str | Path) -> None:
    """Write the state dict, and the network's name and options (but the form, which it does not depend on)."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    identity = " ".join(f"{key}={value}" for key, value in _identity(model).items())
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={_METADATA_KEY: identity})


def load_weights(model: Network, path: str | Path) -> None:
    """Load what `save_weights` wrote; all of it, or nothing where anything is wrong.

    Floats of another precision are converted. A file without this room's metadata is taken if its tensors
    fit by name and shape.

    Raises:
        ValueError: the file is malformed, of another network or preset, or tensors are missing, unexpected,
            of a wrong shape, not floats or not finite; all of these are named.
        OSError: the file cannot be read.
    """
    identity, tensors = read_weights(path)
    differing = [
        f"{key} {identity[key]!r} (this network: {value!r})"
        for key, value in _identity(model).items()
        if identity.get(key, value) != value
    ]
    if differing:
        raise ValueError(f"{path}: weights of another network: {', '.join(differing)}")
    state = model.state_dict()
    problems = [f"missing {name} {tuple(state[name].shape)}" for name in state if name not in tensors]
    problems += [f"unexpected {name} {tuple(tensors[name].shape)}" for name in tensors if name not in state]
    for name in state.keys() & tensors.keys():
        found, needed = tensors[name], state[name]
        if found.shape != needed.shape:
            problems.append(f"{name} has shape {tuple(found.shape)} but {tuple(needed.shape)} is needed")
        elif not found.is_floating_point():
            problems.append(f"{name} is {found.dtype} but floats are needed")
        elif not bool(torch.isfinite(found.to(needed.dtype)).all()):
            problems.append(f"{name} holds values that are not finite in {needed.dtype}")
    if problems:
        raise ValueError(f"{path}: the weights do not fit {model.name}:\n  " + "\n  ".join(sorted(problems)))
    model.load_state_dict(tensors)


def _identity(model: Network) -> dict[str, str]:
    return {"network": model.name} | model.options.identity()


def read_weights(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return what a safetensors file says of its network, and its tensors.

    Raises:
        ValueError: it is not a safetensors file.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb"):  # safetensors' own errors do not name the file
        pass
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            words = (file.metadata() or {}).get(_METADATA_KEY, "").split()
            identity = {key: value for key, _, value in (word.partition("=") for word in words)}
            return identity, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None
