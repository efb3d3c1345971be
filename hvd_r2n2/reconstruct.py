"""The command `python -m hvd_r2n2.reconstruct`: pictures of one object into voxels, a mesh and a preview."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from hvd_r2n2.comm import Alone, choose_devices, gather_places, run_door
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import show
from hvd_r2n2.models import Network, create_model, load_original_weights
from hvd_r2n2.models.original_weights import ORIGINAL_NETWORK
from hvd_r2n2.training.checkpoint import Checkpoint, open_checkpoint
from hvd_r2n2.training.evaluation import RELEASED_THRESHOLD
from hvd_r2n2.training.evaluation_run import load_network, run_directory
from hvd_r2n2.training.precision import set_tf32
from hvd_r2n2.training.reconstruction import (
    read_photographs,
    recommended_threshold,
    reconstruct,
    require_mesh_libraries,
    write_reconstruction,
)

_DESCRIPTION = """\
Reconstruct the shape of one object from one or more pictures of it. Pictures may have any size; the object must be
cut out (transparent background) or stand before a plain background. Writes model.binvox, model.obj, model.glb and
preview.png."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Reconstruct as the command line says.

    Raises:
        ValueError, OSError: a picture or the checkpoint cannot be used, or the output not written.
    """
    options = _parser().parse_args(arguments)
    if options.original_weights is not None:
        # With the weights given apart, what stands in the checkpoint's place is the first picture.
        paths, checkpoint_path = [Path(options.checkpoint), *options.pictures], None
    else:
        paths, checkpoint_path = options.pictures, Path(options.checkpoint)
    if not paths:
        raise ValueError("no pictures are given: name at least one after the checkpoint")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise ValueError(f"--threshold {options.threshold:g} must be between 0 and 1")
    require_mesh_libraries(options.mesh)
    photographs = read_photographs(paths)
    places = gather_places(Alone())
    (device,) = choose_devices(options.device, places[0], places)
    checkpoint = None if checkpoint_path is None else open_checkpoint(checkpoint_path, _warn)
    if device.type == "cuda":
        set_tf32(checkpoint is not None and checkpoint.config.train.tf32)  # as the run was evaluated
    model = _network(checkpoint, options.original_weights, device)
    if options.threshold is not None:
        threshold, source = options.threshold, "given"
    elif checkpoint is None:
        threshold, source = RELEASED_THRESHOLD, "the released code's, as its weights are"
    else:
        threshold, source = recommended_threshold(run_directory(checkpoint), checkpoint.step, len(photographs))
    result = reconstruct(model, photographs, threshold=threshold, device=device)
    written = write_reconstruction(result, options.out, options.mesh)
    show(
        f"{int(result.occupancy_XYZ.sum())} of {result.probability_XYZ.size} voxels are occupied at threshold "
        f"{threshold:g} ({source}), from {len(photographs)} picture(s)"
    )
    for path in written:
        show(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvd_r2n2.reconstruct", description=_DESCRIPTION)
    add = parser.add_argument
    add("checkpoint", help="a run's directory (its best checkpoint is taken) or a checkpoint's")
    add("pictures", nargs="*", type=Path, metavar="picture", help="pictures of one object, in the order they are seen")
    add("--out", type=Path, required=True, metavar="DIR", help="directory for the results")
    add("--threshold", type=float, metavar="T", help="occupancy probability (the run's evaluation.json, else 0.4)")
    add("--mesh", choices=("blocky", "marching-cubes"), default="blocky", help="the voxels' faces, or a smooth surface")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add(
        "--original-weights",
        type=Path,
        metavar="FILE",
        help="weights.npy of the 3D-R2N2 authors, instead of a checkpoint: then only pictures are named",
    )
    return parser


def _warn(text: str) -> None:
    say(f"warning: {text}")


def _network(checkpoint: Checkpoint | None, original_weights: Path | None, device: torch.device) -> Network:
    if checkpoint is not None:
        settings = checkpoint.config.model
        if settings.classifies:
            raise ValueError(
                f"{checkpoint.path}: a checkpoint of {settings.name}, which names the class of a picture; only networks"
                " of 3D-R2N2 reconstruct (a run of model.name=res3d-gru-3, say)"
            )
        return load_network(checkpoint, device)
    assert original_weights is not None
    model = create_model(ORIGINAL_NETWORK)
    load_original_weights(model, original_weights)
    return model.to(device).eval()


if __name__ == "__main__":
    run_door("hvd_r2n2.reconstruct", main)
