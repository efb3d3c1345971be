"""The optional libraries: one place that imports them, with one message when they are missing."""

import importlib
from typing import Any

_PLOTS = "matplotlib"


def require(module_name: str) -> Any:
    """Import an optional library (`trimesh`, `embreex.rtcore_scene`, `skimage.measure`, `matplotlib.figure`, ...).

    Raises:
        ModuleNotFoundError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        package = module_name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        uses, extra = (
            ("pictures of measurements need", "plots")
            if package == _PLOTS
            else ("meshes, rendering and voxelisation need", "shapes")
        )
        raise ModuleNotFoundError(
            f"{package} is not installed; {uses} it: pip install 'hvd_r2n2[{extra}]'", name=package
        ) from error
