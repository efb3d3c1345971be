"""The optional libraries of the data room: one place that imports them, with one message when they are missing."""

import importlib
from typing import Any

INSTALL_COMMAND = "pip install 'hvd_r2n2[shapes]'"


def require(module_name: str) -> Any:
    """Import an optional library (`trimesh`, `embreex.rtcore_scene`, `skimage.measure`, `scipy.ndimage`, ...).

    Raises:
        ModuleNotFoundError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        package = module_name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{package} is not installed; meshes, rendering and voxelisation need it: {INSTALL_COMMAND}", name=package
        ) from error
