"""Proof that all ranks are the same: their parameters, and what they started from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

import hvd_r2n2
from hvd_r2n2.comm import Communicator, JobError


def parameter_digest(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor] | None = None) -> str:
    """Return a SHA-256 of every parameter's bits, and of more tensors (the optimizer's state) if they are given."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *sorted((tensors or {}).items())):
        digest.update(name.encode())
        _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, tensor: torch.Tensor) -> None:
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def check_equal(communicator: Communicator, what: str, digest: str) -> None:
    """Compare a digest over all ranks; every rank must call it.

    Raises:
        JobError: on every rank, naming the ranks that differ from the majority.
    """
    digests = communicator.all_gather_object(digest)
    if len(set(digests)) == 1:
        return
    majority = max(digests, key=digests.count)  # of two equal camps, the one of the lowest rank
    apart = [rank for rank, other in enumerate(digests) if other != majority]
    raise JobError(f"{what}: rank(s) {', '.join(map(str, apart))} differ from the rest; training stops")


def check_same_start(communicator: Communicator, facts: Mapping[str, str]) -> None:
    """Compare what each rank is about to run (code version, settings, data); every rank must call it.

    Raises:
        JobError: on every rank, naming each fact that differs, with the ranks and their values.
    """
    gathered = communicator.all_gather_object(dict(facts))
    problems = []
    for name in facts:
        values = [other[name] for other in gathered]
        if len(set(values)) > 1:
            shown = ", ".join(f"rank {rank}: {value[:16]}" for rank, value in enumerate(values))
            problems.append(f"{name} is not the same on all ranks ({shown})")
    if problems:
        raise JobError("; ".join(problems) + "; every rank must see the same files and settings")


def code_digest() -> str:
    """Return a SHA-256 over the package's sources."""
    digest = hashlib.sha256()
    package = Path(hvd_r2n2.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()


def broadcast_parameters(communicator: Communicator, model: torch.nn.Module) -> None:
    """Give every rank the parameters of rank 0; every rank must call it."""
    if communicator.size == 1:
        return
    parameters = [parameter.data for parameter in model.parameters()]
    # In one piece: the ranks agree on every piece first, which takes milliseconds.
    together = torch.cat([parameter.reshape(-1) for parameter in parameters])
    communicator.broadcast_(together)
    for parameter, values in zip(parameters, torch.split(together, [p.numel() for p in parameters]), strict=True):
        parameter.copy_(values.view_as(parameter))
