"""What of a backward run is not wanted yet: how operations of our own learn what autograd tells only to torch's.

A run for the gradients of some tensors makes torch's operations leave the others out. One written in Python is asked
for all that it has, and would compute twice what is found in two runs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class _Later:
    weights: frozenset[int] = frozenset()
    inputs: bool = False


_current = threading.local()


@contextmanager
def weights_later(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Let backward runs of this thread leave out the gradients of these weights."""
    with _while(_Later(weights=frozenset(map(id, parameters)))):
        yield


@contextmanager
def inputs_later() -> Iterator[None]:
    """Let backward runs of this thread leave out the gradients of what operations read beside their weights."""
    with _while(_Later(inputs=True)):
        yield


def weight_comes_later(weight_id: int) -> bool:
    """Say whether the gradient of the weight of this `id` is left out now."""
    return weight_id in _now().weights


def inputs_come_later() -> bool:
    """Say whether the gradients of operations' inputs are left out now."""
    return _now().inputs


def _now() -> _Later:
    found: _Later = getattr(_current, "later", _Later())
    return found


@contextmanager
def _while(later: _Later) -> Iterator[None]:
    before = _now()
    _current.later = later
    try:
        yield
    finally:
        _current.later = before
