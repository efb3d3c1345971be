"""Sees losses that jump, and says what is to be done about them; the same on every rank and after a resumption."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from hvd_r2n2.comm import JobError
from hvd_r2n2.config import TrainConfig

WINDOW = 100
"""Steps whose losses make the median."""
FEWEST = 10
"""Steps before which there is no median to go by."""


class LossSpikeError(JobError):
    """The loss has jumped, and training is to stop then."""


@dataclass(frozen=True)
class SpikeHistory:
    """What the guard goes by; a part of every checkpoint."""

    losses: tuple[float, ...] = ()
    """Of the last steps, the oldest first; spikes too, so that a lasting change becomes the median in time."""
    in_a_row: int = 0
    """Spikes up to now without another step between them."""
    skipped: int = 0
    """Steps of the run in which weights did not move."""


class SpikeGuard:
    """Judges the loss of each step before weights move.

    It goes by the mean loss of the global batch, which is the same bits on all ranks, and by nothing else.
    """

    def __init__(self, config: TrainConfig, history: SpikeHistory) -> None:
        """Go on from what a checkpoint holds."""
        self._factor = config.spike_factor
        self._patience = config.spike_steps or 1
        self._skips = config.spike_action == "skip"
        self._losses = deque(history.losses, maxlen=WINDOW)
        self._in_a_row, self._skipped = history.in_a_row, history.skipped

    @property
    def history(self) -> SpikeHistory:
        """What the next step is judged by."""
        return SpikeHistory(tuple(self._losses), self._in_a_row, self._skipped)

    def admits(self, loss: float) -> bool:
        """Take a step's loss in; return whether its weights may move.

        Raises:
            LossSpikeError: enough spikes have come in a row, and train.spike_action is `stop`.
        """
        if self._factor is None:
            return True
        median = statistics.median(self._losses) if len(self._losses) >= FEWEST else None
        self._losses.append(loss)
        is_spike = median is not None and loss > self._factor * median
        self._in_a_row = self._in_a_row + 1 if is_spike else 0
        if self._in_a_row < self._patience:
            return True
        if self._skips:
            self._skipped += 1
            return False
        raise LossSpikeError(
            f"the loss is {loss:.4g}, more than train.spike_factor={self._factor:g} times the median {median:.4g} of "
            f"the last {len(self._losses) - 1} steps, for {self._in_a_row} step(s) in a row (train.spike_steps). "
            "Training stops before the weights change; the last checkpoint is good. A lower optimizer.learning_rate "
            "or train.clip_norm may help, or train.spike_action=skip"
        )
