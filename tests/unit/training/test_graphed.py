"""What of CUDA graphs needs no GPU: when one is made, and where there can be none."""

from __future__ import annotations

import pytest
import torch

from hvd_r2n2.comm import Alone
from hvd_r2n2.config import load_config
from hvd_r2n2.models import voxel_loss_stage
from hvd_r2n2.training.build_engine import build_engine
from hvd_r2n2.training.graphed import signature
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.setup import build_model

CONFIG = load_config(
    None, ["model.name=3d-gru-1", "model.width=0.03125", "train.batch_size=2", "train.cuda_graphs=true"]
)
CPU = torch.device("cpu")


def test_a_graph_serves_all_batches_of_one_shape_and_type() -> None:
    model = build_model(CONFIG.model, 0)
    first, second, views = (random_inputs(CONFIG, model, 2, num_views, CPU) for num_views in (1, 1, 2))
    second["images"].zero_()
    assert signature(first) == signature(dict(reversed(second.items())))
    assert signature(first) != signature(views)
    assert signature(first) != signature(first | {"images": first["images"].double()})
    assert signature(first) != signature({"pictures": first["images"], "occupancy": first["occupancy"]})


def test_cpu_has_no_graphs() -> None:
    with pytest.raises(ValueError, match=r"train\.cuda_graphs: needs a GPU, but this rank has cpu"):
        build_engine(CONFIG, build_model(CONFIG.model, 0), voxel_loss_stage(), Alone(), Placement((CPU,), 1))
