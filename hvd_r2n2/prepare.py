"""Prepare data: `python -m hvd_r2n2.prepare shapes --out DIR --models-per-category N` writes the built-in shapes."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvd_r2n2.data.shapes_writer import write_shapes

_PLAIN_LINES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit status (0 done, 1 an error that is printed, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        _write_shapes(options, console)
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        console.print(f"prepare: error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("prepare: interrupted; the same command goes on where this one stopped", markup=False)
        return 130
    return 0


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


def _write_shapes(options: argparse.Namespace, console: Console) -> None:
    with _shown_progress(console) as progress:
        written = write_shapes(
            options.out,
            options.models_per_category,
            categories=options.categories,
            seed=options.seed,
            resolution=options.resolution,
            processes=options.processes,
            progress=progress,
            report=lambda text: console.print(text, markup=False),
        )
    print(
        f"{options.out}: {written.num_models} models ({written.num_new_models} new), {written.num_pictures} pictures, "
        f"{options.resolution}³ voxels; {written.new_bytes} bytes written in {written.seconds:.1f} s"
    )


@contextmanager
def _shown_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that draws a bar on a terminal, and else prints a line every tenth."""
    if console.is_terminal:
        columns = (TextColumn("models"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("models", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def print_tenths(done: int, total: int) -> None:
        if done == total or done * _PLAIN_LINES // total != (done - 1) * _PLAIN_LINES // total:
            console.print(f"models: {done} of {total}", markup=False)

    yield print_tenths


if __name__ == "__main__":
    sys.exit(main())
