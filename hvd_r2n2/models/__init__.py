"""Networks for one device, as lists of stages; losses; weights in and out."""

from hvd_r2n2.models import r2n2 as _r2n2  # registers the five networks  # noqa: F401
from hvd_r2n2.models.losses import voxel_cross_entropy
from hvd_r2n2.models.network import (
    FORMS,
    IMAGE_SIDE,
    NETWORKS,
    PRESETS,
    VOXEL_RESOLUTIONS,
    NetworkOptions,
    ReconstructionNetwork,
    create_model,
    register_network,
)
from hvd_r2n2.models.original_weights import load_original_weights, save_original_weights
from hvd_r2n2.models.stages import NamedTensor, Stage, run_stages
from hvd_r2n2.models.weights import load_weights, save_weights

__all__ = [
    "FORMS",
    "IMAGE_SIDE",
    "NETWORKS",
    "PRESETS",
    "VOXEL_RESOLUTIONS",
    "NamedTensor",
    "NetworkOptions",
    "ReconstructionNetwork",
    "Stage",
    "create_model",
    "load_original_weights",
    "load_weights",
    "register_network",
    "run_stages",
    "save_original_weights",
    "save_weights",
    "voxel_cross_entropy",
]
