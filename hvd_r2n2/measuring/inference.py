"""One process's part of an arm that runs the network forward alone, as evaluation does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.kept_weights import kept_tensors
from hvd_r2n2.common.memory import DeviceMemory, device_memory
from hvd_r2n2.config import Config
from hvd_r2n2.measuring.runner import NO_REPORT, Runner, build_network
from hvd_r2n2.training.engine import StepReport
from hvd_r2n2.training.forward import evaluating
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.placement import place_rank
from hvd_r2n2.training.precision import autocast


class InferenceRunner(Runner):
    """Steps that give the logits of `evaluation.batch_size` samples."""

    def __init__(self, config: Config, communicator: Communicator) -> None:
        """Make the network.

        Raises:
            ValueError: the settings are not possible.
        """
        super().__init__(place_rank(config, communicator, lambda text: None))
        self.config = config
        self.model, _ = build_network(config, self.placement)
        self._evaluation = ExitStack()
        self._evaluation.enter_context(evaluating(self.model))

    def batch(self, num_views: int) -> dict[str, Tensor]:
        """Return random pictures."""
        config, device = self.config, self.placement.devices[0]
        inputs = random_inputs(config, self.model, config.evaluation.batch_size, num_views, device)
        return {"images": inputs["images"]}

    def step(self, inputs: Mapping[str, Tensor]) -> StepReport:
        """Run the network."""
        with torch.inference_mode(), autocast(self.config.train.dtype, self.placement.devices[0]):
            self.model(inputs["images"])
        return NO_REPORT

    def memory(self) -> tuple[DeviceMemory, ...]:
        """Return what the device holds: weights, also as converted for the layers, and on a GPU also the most that was
        allocated since the last call.
        """
        weights = [*self.model.parameters(), *kept_tensors()]
        return (device_memory(weights, (), self.placement.devices[0]),)

    def close(self) -> None:
        """Let go of the converted weights."""
        self._evaluation.close()
