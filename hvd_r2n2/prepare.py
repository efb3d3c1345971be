"""Prepare data: `python -m hvd_r2n2.prepare shapes --out DIR --models-per-category N` writes the built-in shapes."""

import argparse
from collections.abc import Sequence

from hvd_r2n2.comm import run_door
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.common.standard_output import show
from hvd_r2n2.data.shapes_writer import write_shapes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand."""
    options = _parser().parse_args(arguments)
    written = write_shapes(
        options.out,
        options.models_per_category,
        categories=options.categories,
        seed=options.seed,
        resolution=options.resolution,
        processes=options.processes,
        report=say,
    )
    show(
        f"{options.out}: {written.num_models} models ({written.num_new_models} new), {written.num_pictures} pictures, "
        f"{options.resolution}³ voxels; {written.new_bytes} bytes written in {written.seconds:.1f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hvd_r2n2.prepare", description="Prepare data for training.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shapes = commands.add_parser(
        "shapes",
        help="write the built-in shapes in ShapeNet's layout",
        description="Write parametric models of the 13 categories, 24 pictures and a voxel grid each, in ShapeNet's "
        "layout. Run it again to go on after an interruption, or with a larger number to add models.",
    )
    shapes.add_argument("--out", required=True, metavar="DIR", help="folder to write to; made if it does not exist")
    shapes.add_argument("--models-per-category", required=True, type=int, metavar="N")
    shapes.add_argument(
        "--categories", nargs="+", action="extend", metavar="NAME", help="names or synset ids (default: all 13)"
    )
    shapes.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other shapes (default: 0)")
    shapes.add_argument("--resolution", type=int, default=32, metavar="D", help="voxels a side (default: 32)")
    shapes.add_argument("--processes", type=int, metavar="P", help="default: one for each core this process may use")
    return parser


if __name__ == "__main__":
    run_door("hvd_r2n2.prepare", main)
