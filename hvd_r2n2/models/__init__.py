"""Networks for one device, as lists of stages; losses; weights in and out."""

from hvd_r2n2.models import alexnet as _alexnet  # registers alexnet  # noqa: F401
from hvd_r2n2.models import r2n2 as _r2n2  # registers the five networks of 3D-R2N2  # noqa: F401
from hvd_r2n2.models.losses import class_cross_entropy, class_loss_stage, voxel_cross_entropy, voxel_loss_stage
from hvd_r2n2.models.network import (
    IMAGE_SIDE,
    NETWORKS,
    ClassificationNetwork,
    Network,
    ReconstructionNetwork,
    create_model,
)
from hvd_r2n2.models.options import REWRITES
from hvd_r2n2.models.original_weights import load_original_weights, save_original_weights
from hvd_r2n2.models.weights import load_weights, save_weights

__all__ = [
    "IMAGE_SIDE",
    "NETWORKS",
    "REWRITES",
    "ClassificationNetwork",
    "Network",
    "ReconstructionNetwork",
    "class_cross_entropy",
    "class_loss_stage",
    "create_model",
    "load_original_weights",
    "load_weights",
    "save_original_weights",
    "save_weights",
    "voxel_cross_entropy",
    "voxel_loss_stage",
]
