"""The engine that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from hvd_r2n2.comm import Communicator
from hvd_r2n2.common.stages import Stage
from hvd_r2n2.config import Config
from hvd_r2n2.models import Network
from hvd_r2n2.training.engine import Engine, OneDevice
from hvd_r2n2.training.graphed import GraphedDevice
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.planning import KeptPlan, make_plan
from hvd_r2n2.training.split_engine import SplitEngine


def build_engine(
    config: Config,
    model: Network,
    loss_stage: Stage,
    communicator: Communicator,
    placement: Placement,
    report: Callable[[str], None] = lambda text: None,
    kept: KeptPlan | None = None,
) -> Engine:
    """Return an engine for a network that lies on the first device; every rank calls it.

    A plan that the checkpoint to go on from has `kept` is taken again where it was made for the same.

    Raises:
        ValueError: the split, or the CUDA graphs, that the settings ask for are not possible.
    """
    plan = None
    if config.split.strategy != "none":
        plan = make_plan(config, model, loss_stage, placement, communicator, report, kept)
    if plan is None:
        engine = GraphedDevice if config.train.cuda_graphs else OneDevice
        return engine(config, model, loss_stage, communicator)
    return SplitEngine(config, model, loss_stage, communicator, plan, placement.devices, placement.threads_per_device)
