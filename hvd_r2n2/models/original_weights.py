"""The weights' file of the released code: 63 arrays in Theano's layouts (chrischoy/3D-R2N2, models/net.py).

Theano's convolutions are true ones, so every kernel is flipped on all spatial axes relative to PyTorch's;
its grids have the depth before the channels. Layouts of the file, o i for out and in channels, d h w for
the kernel's axes: images ``o i h w``, grids ``o d i h w``, fc7 ``i o``, and the gates' Wx
``feature, (D C H W)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hvd_r2n2.common.files import replacing
from hvd_r2n2.models.network import Network
from hvd_r2n2.models.options import NetworkOptions, ReconstructionOptions
from hvd_r2n2.models.pickled_arrays import PickledArray, read_pickled_arrays
from hvd_r2n2.models.recurrent import HIDDEN_SIDE

ORIGINAL_NETWORK = "res3d-gru-3"

Layout = Literal["conv2d", "conv3d", "fc", "projection", "bias"]


@dataclass(frozen=True)
class OriginalArray:
    """Say where one array of the file belongs: rows ``part`` of ``num_parts`` of a parameter."""

    label: str
    parameter: str
    layout: Layout
    part: int = 0
    num_parts: int = 1


def _original_arrays() -> Iterator[OriginalArray]:
    for layer in ("1a", "1b", "2a", "2b", "2c", "3a", "3b", "3c", "4a", "4b", "5a", "5b", "5c", "6a", "6b"):
        name = f"encoder.block{layer[0]}.conv_{layer[1]}"
        yield OriginalArray(f"conv{layer}.W", f"{name}.weight", "conv2d")
        yield OriginalArray(f"conv{layer}.b", f"{name}.bias", "bias")
    yield OriginalArray("fc7.W", "encoder.fc7.weight", "fc")
    yield OriginalArray("fc7.b", "encoder.fc7.bias", "bias")
    for gate, (label, module, part, num_parts) in enumerate(
        (("update", "gates", 0, 2), ("reset", "gates", 1, 2), ("candidate", "candidate", 0, 1))
    ):
        unit = f"recurrence.unit.{module}"
        yield OriginalArray(f"{label}.Wh", f"{unit}.weight", "conv3d", part, num_parts)
        yield OriginalArray(f"{label}.Wx", "recurrence.projection.weight", "projection", gate, 3)
        yield OriginalArray(f"{label}.b", f"{unit}.bias", "bias", part, num_parts)
    for layer in ("7a", "7b", "8a", "8b", "9a", "9b", "9c", "10a", "10b", "10c", "11"):
        number, letter = layer.rstrip("abc"), layer.lstrip("0123456789")
        name = f"decoder.block{number}" + (f".conv_{letter}" if letter else "")
        yield OriginalArray(f"conv{layer}.W", f"{name}.weight", "conv3d")
        yield OriginalArray(f"conv{layer}.b", f"{name}.bias", "bias")


ORIGINAL_ARRAYS: tuple[OriginalArray, ...] = tuple(_original_arrays())


def load_original_weights(model: Network, path: str | Path) -> None:
    """Load the 63 arrays of a released ``weights.npy``; all of them, or none where any is wrong.

    Nothing in the file is run: see `pickled_arrays`.

    Raises:
        ValueError: the model is another network than the file is for, or the file is malformed, malicious,
            or holds an array of a wrong type, shape or value (named by number and layer).
        OSError: the file cannot be read.
    """
    _check_model(model, path)
    entries = read_pickled_arrays(path)
    if len(entries) != len(ORIGINAL_ARRAYS):
        raise ValueError(f"{path}: {len(entries)} arrays but {len(ORIGINAL_ARRAYS)} are needed")
    parameters = dict(model.named_parameters())
    loaded = []
    for number, (original, entry) in enumerate(zip(ORIGINAL_ARRAYS, entries, strict=True), start=1):
        target = _rows(parameters[original.parameter], original)
        try:
            loaded.append((target, _tensor(entry, original, target)))
        except ValueError as error:
            raise ValueError(f"{path}: array {number} ({original.label}): {error}") from None
    for target, tensor in loaded:
        target.copy_(tensor)


def save_original_weights(model: Network, path: str | Path) -> None:
    """Write the weights as the released code does: 63 float32 arrays (NumPy from 1.26 on reads the file).

    Raises:
        ValueError: the model is another network than such files are for.
    """
    _check_model(model, path)
    parameters = dict(model.named_parameters())
    arrays = np.empty(len(ORIGINAL_ARRAYS), dtype=object)
    for index, original in enumerate(ORIGINAL_ARRAYS):
        rows = _rows(parameters[original.parameter], original).to("cpu", torch.float32).numpy()
        arrays[index] = np.ascontiguousarray(_to_original(rows, original.layout))
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, arrays, allow_pickle=True)


def _check_model(model: Network, path: str | Path) -> None:
    needed, found = _words(ORIGINAL_NETWORK, ReconstructionOptions()), _words(model.name, model.options)
    if found != needed:
        raise ValueError(f"{path}: weights in the released code's format are for {needed}; this network is {found}")


def _words(name: str, options: NetworkOptions) -> str:
    return ", ".join([name, *(f"{key} {value}" for key, value in options.identity().items())])


def _rows(parameter: Tensor, original: OriginalArray) -> Tensor:
    """Give the rows of a parameter that one array of the file fills, sharing memory with it."""
    return parameter.detach().chunk(original.num_parts)[original.part]


def _tensor(entry: PickledArray, original: OriginalArray, target: Tensor) -> Tensor:
    """Build and check an array of the file and turn it into the layout and type of its target."""
    array = entry.numbers()
    needed = _original_shape(tuple(target.shape), original.layout)
    if array.shape != needed:
        raise ValueError(f"shape {array.shape} but {needed} is needed")
    # In the byte order of this machine, which is the only one that PyTorch takes.
    turned = np.array(_from_original(array, original.layout), dtype=array.dtype.newbyteorder("="), order="C")
    tensor = torch.from_numpy(turned).to(target.dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"holds values that are not finite in {target.dtype}")
    return tensor


def _original_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    if layout == "conv3d":
        return (shape[0], shape[2], shape[1], *shape[3:])
    return shape[::-1] if layout in ("fc", "projection") else shape


def _from_original(array: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """Turn an array of the file (module docstring) into PyTorch's layout."""
    if layout == "conv2d":
        return array[:, :, ::-1, ::-1]
    if layout == "conv3d":
        return array.transpose(0, 2, 1, 3, 4)[:, :, ::-1, ::-1, ::-1]
    if layout == "fc":
        return array.T
    if layout == "projection":
        num_features, num_rows = array.shape
        channels = num_rows // HIDDEN_SIDE**3
        grid_DCHWF = array.T.reshape(HIDDEN_SIDE, channels, HIDDEN_SIDE, HIDDEN_SIDE, num_features)
        return grid_DCHWF.swapaxes(0, 1).reshape(num_rows, num_features)
    return array


def _to_original(array: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """Undo `_from_original`."""
    if layout == "conv3d":
        return array.transpose(0, 2, 1, 3, 4)[:, ::-1, :, ::-1, ::-1]
    if layout == "projection":
        num_rows, num_features = array.shape
        channels = num_rows // HIDDEN_SIDE**3
        grid_CDHWF = array.reshape(channels, HIDDEN_SIDE, HIDDEN_SIDE, HIDDEN_SIDE, num_features)
        return grid_CDHWF.swapaxes(0, 1).reshape(num_rows, num_features).T
    return _from_original(array, layout)
