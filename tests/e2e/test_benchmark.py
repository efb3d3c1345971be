"""The benchmark: what it writes, what it says of a failing arm, and that no process outlives it.

No figure is compared with another one: the machine that tests run on may be busy.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Launcher, launch_environment
from tests.doors import forking

BENCHMARK = ("-m", "hvd_r2n2.benchmark")
TINY = (
    *("--set", "model.name=3d-gru-1", "--set", "model.width=0.0625", "--set", "train.device=cpu"),
    *("--set", "train.batch_size=4", "--set", "train.max_views=2", "--set", "train.cpu_threads=1"),
)
SHORT = (*TINY, "--steps", "2", "--warmup", "1")
FIGURES = {"name", "devices", "median_s", "quartiles_s", "times_s", "speedup", "of_bound", "peak_memory_bytes"}


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose command line names the folder, which is where workers find their socket."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


# The benchmark, but it says at once how far it is with the steps, and not after ten seconds of them.
TALKATIVE = """
from hvd_r2n2.benchmark import main
from hvd_r2n2.comm import run_door
from hvd_r2n2.data import progress
progress._SECONDS_BETWEEN_LINES = 0.5
run_door("hvd_r2n2.benchmark", main)
"""


def is_empty(folder: Path) -> bool:
    return not processes_in(folder) and not list(folder.glob("hvd_r2n2-*"))


@pytest.fixture(scope="module")
def forked() -> Iterator[Launcher]:
    """Run short benchmark commands."""
    with forking("hvd_r2n2.benchmark") as run:
        yield run


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Give a folder for temporary files, seen in the command line of every worker."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


def check_origin(content: dict[str, Any]) -> None:
    assert content["hardware"].keys() == {"cpu", "cores", "memory_bytes", "gpus"}
    assert content["versions"].keys() == {"hvd_r2n2", "torch", "horovod", "python"}
    assert content["settings"]["model"]["name"] == "3d-gru-1"
    assert content["command"].startswith("python -m hvd_r2n2.benchmark ")
    assert content["date"].endswith("+00:00")


def test_split_measures_every_arm(temporary: Path, tmp_path: Path, python: Launcher) -> None:
    results = ("--json", tmp_path / "split.json", "--traces", tmp_path / "traces", "--predict")
    chosen = ("--arms", "one-device,bound,pipeline,kernel,ddp", "--arm", "spatial", "split.micro_batches=2")
    done = python(*BENCHMARK, "split", *SHORT, *chosen, *results, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_empty(temporary)
    content = json.loads((tmp_path / "split.json").read_text())
    check_origin(content)
    arms = {arm["name"]: arm for arm in content["arms"]}
    assert list(arms) == ["one-device", "bound", "pipeline", "kernel", "ddp", "spatial"]
    for name, arm in arms.items():
        assert arm.keys() >= FIGURES
        assert len(arm["times_s"]) == 2
        assert len(arm["devices"]) == len(arm["memory_by_device"]) == (1 if name == "one-device" else 2)
        assert arm["of_bound"] == pytest.approx(arm["speedup"] / content["bound"])
        assert arm["peak_memory_bytes"] == max(device["peak"] for device in arm["memory_by_device"]) > 0
        assert name in done.stdout
    assert arms["one-device"]["speedup"] == arms["bound"]["of_bound"] == 1.0
    assert arms["one-device"]["trials_s"].keys() == {"4", "2", "1"}
    assert "split.micro_batches=2" in arms["spatial"]["settings"]
    # Those whose micro-batches are given; pipeline and kernel choose theirs themselves.
    assert {name for name, arm in arms.items() if "predicted_s" in arm} == {"one-device", "ddp", "spatial"}
    for arm in (arms["one-device"], arms["ddp"], arms["spatial"]):
        assert arm["prediction_error"] == pytest.approx(arm["predicted_s"] / arm["median_s"] - 1)
    for name in ("pipeline", "kernel", "spatial"):
        events = json.loads((tmp_path / "traces" / f"{name}.json").read_text())["traceEvents"]
        assert {event["tid"] for event in events if event["ph"] == "X"} == {0, 1}
        assert len(arms[name]["busy_by_device"]) == 2


def test_ranks_measures_horovod_and_ddp(temporary: Path, tmp_path: Path, python: Launcher, mpirun: Launcher) -> None:
    results = ("--accumulation", "1", "--json", tmp_path / "ranks.json")
    done = python(*BENCHMARK, "ranks", *SHORT, *results, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_empty(temporary)
    content = json.loads((tmp_path / "ranks.json").read_text())
    check_origin(content)
    samples = {arm["name"]: arm["samples_per_step"] for arm in content["arms"]}
    assert samples == {
        "one-device": 4,
        "bound": 8,
        "ddp-1": 4,
        "horovod-2-weak": 8,
        "ddp-2-weak": 8,
        "horovod-2-strong": 4,
        "ddp-2-strong": 4,
    }
    for arm in content["arms"]:
        assert ("exposed_communication_s" in arm) == arm["name"].startswith(("ddp", "horovod"))


def test_baseline_is_written_for_every_number_of_views(temporary: Path, tmp_path: Path, python: Launcher) -> None:
    out = tmp_path / "baseline.json"
    done = python(*BENCHMARK, "baseline", *SHORT, "--out", out, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_empty(temporary)
    content = json.loads(out.read_text())
    assert content["steps_by_views"].keys() == {"1", "2"}
    assert all(len(step["times_s"]) == 2 for step in content["steps_by_views"].values())
    assert content["micro_batch"] * content["accumulation"] == 4
    assert content["threads"] == 1


def test_data_measures_decoding_the_cache_and_batches(
    temporary: Path, tmp_path: Path, python: Launcher, tiny_data: Path
) -> None:
    data = ("--set", f"data.root={tiny_data}", "--set", f"data.cache_dir={tmp_path / 'cache'}")
    short = ("--set", "train.batch_size=6", "--rounds", "2", "--seconds", "0.05")
    results = ("--json", tmp_path / "data.json", "--picture", tmp_path / "data.png")
    done = python(*BENCHMARK, "data", *data, *short, *results, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_empty(temporary)
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "data.json").read_text())
    assert content["settings"]["train"]["batch_size"] == 6
    assert content["data"]["pictures"] == 18 * 24
    arms = {arm["name"]: arm for arm in content["arms"]}
    names = ["decode", "cache-read", "cache-batch", "cache-batch-2", "cache-first", "cache-float", "cache-float-2"]
    assert [*arms, *content["left_out"]] == names or len(os.sched_getaffinity(0)) == 1
    assert arms["decode"]["of_decode_a_core"] == 1
    for name, arm in arms.items():
        assert len(arm["rates"]) == 2
        assert min(arm["rates"]) > 0
        assert arm["images_per_s_a_core"] == pytest.approx(arm["images_per_s"] / arm["cores"])
        assert name in done.stdout
    for memory in content["memory"]:
        assert 0 < memory["cache_resident"] <= memory["resident"]
        assert memory["batch"] > 0
        if len(content["memory"]) == 2:  # each page of the cache is there once, for both
            assert memory["cache_proportional"] < 0.6 * memory["cache_resident"]


def check_part(entry: dict[str, Any], samples: int, num_views: int, rate: float) -> None:
    assert entry.keys() >= {"quartiles_s", "views_per_s", "peak_memory_bytes", "resident_bytes", "operations"}
    assert len(entry["times_s"]) == 2
    assert entry["images_per_s"] == pytest.approx(samples * num_views / entry["median_s"])
    assert entry["of_matrix_rate"] == pytest.approx(entry["flop"] / entry["median_s"] / rate)
    assert 0 < entry["peak_memory_bytes"] < entry["resident_bytes"]
    breakdown = entry["breakdown"].values()
    assert sum(kind["seconds"] for kind in breakdown) == pytest.approx(entry["profiled_step_s"])
    assert sum(kind["share"] for kind in breakdown) == pytest.approx(1.0)
    assert entry["breakdown"]["convolution forward"]["seconds"] > 0
    assert entry["operations"][0].keys() == {"name", "shapes", "kind", "calls", "seconds"}


def test_device_measures_plain_optimisations_and_defaults(temporary: Path, tmp_path: Path, python: Launcher) -> None:
    results = ("--json", tmp_path / "device.json", "--picture", tmp_path / "device.png")
    chosen = ("--arms", "+unpool", "--arm", "parts", "train.accumulation=2")
    sizes = ("--set", "train.batch_size=2", "--set", "evaluation.batch_size=2", "--set", "evaluation.views=1")
    done = python(*BENCHMARK, "device", *SHORT, *sizes, *chosen, *results, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_empty(temporary)
    assert (tmp_path / "device.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "device.json").read_text())
    check_origin(content)
    arms = {arm["name"]: arm for arm in content["arms"]}
    assert list(arms) == ["plain", "+unpool", "default-float32", "default-bfloat16", "parts"]
    assert list(content["matrix_rates"]) == ["training", "inference", "single"]
    for name, arm in arms.items():
        assert name in done.stdout
        assert arm["dtype"] == ("bfloat16" if name == "default-bfloat16" else "float32")
        rates = {part: found[arm["dtype"]]["best"] for part, found in content["matrix_rates"].items()}
        check_part(arm, samples=2, num_views=2, rate=rates["training"])
        check_part(arm["inference"], samples=2, num_views=1, rate=rates["inference"])
        check_part(arm["single"], samples=1, num_views=1, rate=rates["single"])
        assert arm["breakdown"]["optimizer"]["seconds"] > 0
        assert arm["single"]["breakdown"]["optimizer"]["seconds"] == 0
        assert (arm["breakdown"]["transposed convolution backward"]["seconds"] > 0) == (name != "plain")
    assert arms["plain"]["ratio_to_plain"] == 1.0
    assert len({arm["flop"] for arm in arms.values()}) == 1
    for words in ("images/s", "views/s", "of matrix rate", "products of matrices, bfloat16", "where the time went"):
        assert words in done.stdout


def test_device_measures_a_network_that_classifies(temporary: Path, tmp_path: Path, python: Launcher) -> None:
    own = ("--set", "model.name=alexnet", "--set", "model.width=0.0625", "--set", "train.batch_size=2")
    more = ("--set", "train.device=cpu", "--set", "train.cpu_threads=1", "--only", "single")
    short = ("--steps", "1", "--warmup", "1", "--json", tmp_path / "device.json")
    done = python(*BENCHMARK, "device", *own, *more, *short, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stdout + done.stderr
    arms = json.loads((tmp_path / "device.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == ["plain", "default-float32", "default-bfloat16"]
    assert all(arm.keys() == {"name", "settings", "single"} for arm in arms)


def test_failing_arm_ends_all_with_its_message(temporary: Path, python: Launcher) -> None:
    odd = ("--set", "model.width=0.03125", "--arms", "one-device,bound,kernel", "--accumulation", "1")
    done = python(*BENCHMARK, "split", *SHORT, *odd, environment={"TMPDIR": str(temporary)})
    assert done.returncode == 1
    assert "error: arm kernel: kernel split of encoder.block1 over 2 devices: 3 output channels" in done.stderr
    assert "Traceback" not in done.stderr
    assert is_empty(temporary)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_benchmark_that_is_ended(sent: signal.Signals, temporary: Path) -> None:
    command = [sys.executable, "-c", TALKATIVE, "split", *TINY, "--accumulation", "1", "--steps", "10000"]
    with subprocess.Popen(
        [*command, "--arms", "one-device,bound,kernel,ddp"],
        env=launch_environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("steps:"):
                break
        assert len(processes_in(temporary)) == 6
        process.send_signal(sent)
        error = process.stderr.read()
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert error.splitlines()[-1] == "hvd_r2n2.benchmark: interrupted"
        assert is_empty(temporary)
    deadline = time.monotonic() + 10
    while processes_in(temporary) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_in(temporary)


def test_worker_that_dies_ends_all_and_is_named(temporary: Path) -> None:
    command = [sys.executable, "-c", TALKATIVE, "split", *TINY, "--accumulation", "1", "--steps", "10000"]
    with subprocess.Popen(
        [*command, "--arms", "one-device"],
        env=launch_environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("steps:"):
                break
        (worker,) = processes_in(temporary)
        subprocess.run(["kill", "-9", str(worker)], check=True)
        error = process.stderr.read()
    assert process.returncode == 1
    assert "error: arm one-device: a process has ended (exit code -9)" in error
    assert is_empty(temporary)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split", "--steps", "0"), "--steps 0 is not possible (1 or more)"),
        (("data", "--rounds", "0"), "--rounds 0 is not possible (1 or more)"),
        (("data", "--set", "model.name=alexnet"), "model.name must be a network of 3D-R2N2, not alexnet"),
        (("data", "--set", "data.root=nowhere"), "nowhere: no folder ShapeNetRendering and no folder ShapeNetVox32"),
        (("split", "--warmup", "0"), "--warmup 0 is not possible (1 or more)"),
        (("split", "--arms", "kernal"), "--arms: kernal is not known, did you mean kernel?"),
        (("ranks", "--set", "split.strategy=kernel"), "split.strategy must be none"),
        (("device", "--arms", "+unpol"), "--arms: +unpol is not known, did you mean +unpool?"),
        (("device", "--arm", "mine"), "--arm mine: write NAME SECTION.KEY=VALUE"),
        (("device", "--only", "batch"), "--only: batch is not known (known: training, inference, single)"),
        (("device", "--set", "split.strategy=kernel"), "split.strategy must be none, this benchmark has one device"),
        (("split", "--config", "nowhere.yaml"), "nowhere.yaml: No such file or directory"),
    ],
)
def test_bad_arguments_are_one_message(arguments: tuple[str, ...], message: str, forked: Launcher) -> None:
    done = forked(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_benchmark_under_a_launcher_is_refused(mpirun: Launcher) -> None:
    done = mpirun(2, *BENCHMARK, "split")
    assert done.returncode != 0
    assert "the benchmark starts its own ranks" in done.stderr
