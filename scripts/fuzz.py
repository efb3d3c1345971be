#!/usr/bin/env python3
"""Give a reader of strangers' files very many damaged ones: each must give data or a ValueError, and soon.

    python scripts/fuzz.py binvox --inputs 250000              # random edits of whole files, the same for a seed
    python scripts/fuzz.py binvox --inputs 250000 --coverage   # inputs that reach new code (pip install atheris)

Without a name: every reader. An input that fails is kept as fuzz-NAME.bin and its traceback is printed.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SECONDS_AN_INPUT = 10
MEMORY_BYTES = 4 << 30


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="readers (default: all)")
    parser.add_argument("--inputs", type=int, default=10_000, metavar="N", help="of each reader (10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true", help="guided by coverage, with atheris; one reader")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if options.coverage:
        _guided(*options.names, num_inputs=options.inputs, seed=options.seed)
        return
    from tests.fuzzing import edited, random_edits, targets

    with tempfile.TemporaryDirectory() as folder:
        known = targets(Path(folder))
        for name in options.names or known:
            random, reader = Random(f"{name} {options.seed}"), Reader(name, Path(folder) / "input")
            for _ in range(options.inputs):
                reader.meet(edited(random.choice(known[name].files), random_edits(random)))
            reader.report()


class Reader:
    """One reader and what it made of its inputs."""

    def __init__(self, name: str, path: Path) -> None:
        """Start counting; inputs are written to `path`."""
        from tests.fuzzing import targets

        self.target = targets(path.parent)[name]
        self.name, self.path = name, path
        self.num_data, self.num_inputs, self.slowest_s = 0, 0, 0.0
        self.start = time.perf_counter()

    def meet(self, content: bytes) -> None:
        """Let it read an input; one that fails is kept and ends the program."""
        from tests.fuzzing import meets

        signal.alarm(SECONDS_AN_INPUT)
        start = time.perf_counter()
        try:
            self.num_data += meets(self.target, self.path, content)
        except BaseException:
            Path(f"fuzz-{self.name}.bin").write_bytes(content)
            raise
        finally:
            signal.alarm(0)
        self.num_inputs += 1
        self.slowest_s = max(self.slowest_s, time.perf_counter() - start)

    def report(self) -> None:
        """Print the counts."""
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            f"{self.name}: {self.num_inputs:,} inputs, {self.num_data:,} data, "
            f"{self.num_inputs - self.num_data:,} refused, slowest {self.slowest_s * 1e3:.0f} ms, "
            f"{time.perf_counter() - self.start:.0f} s, peak {peak_bytes / 2**20:.0f} MiB",
            flush=True,
        )


def _guided(name: str, *, num_inputs: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["hvd_r2n2.data", "hvd_r2n2.models", "hvd_r2n2.config", "json", "yaml"]):
        from tests.fuzzing import targets
    folder = tempfile.mkdtemp()
    reader = Reader(name, Path(folder) / "input")
    corpus = Path(folder) / "corpus"
    corpus.mkdir()
    for number, content in enumerate(targets(Path(folder))[name].files):
        (corpus / str(number)).write_bytes(content)

    def meet(content: bytes) -> None:
        reader.meet(content)
        if reader.num_inputs == num_inputs:
            reader.report()

    # The memory is limited above; libFuzzer's own limit would count the libraries as well.
    words = [f"-runs={num_inputs}", f"-seed={seed + 1}", "-rss_limit_mb=0", "-verbosity=0", "-max_len=8192"]
    atheris.Setup([sys.argv[0], *words, str(corpus)], meet)
    atheris.Fuzz()


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"an input took more than {SECONDS_AN_INPUT} s")


if __name__ == "__main__":
    main()
