import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvd_r2n2.prepare import main
from tests.conftest import Launcher
from tests.doors import forking

SHAPES = (sys.executable, "-m", "hvd_r2n2.prepare", "shapes", "--categories", "car", "lamp", "--out")


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".shapes.lock"
    }


def start(out: Path, num_models: int) -> "subprocess.Popen[str]":
    command = [*SHAPES, str(out), "--models-per-category", str(num_models), "--processes", "2"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def wait_for(out: Path, num_models: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("ShapeNetRendering/*/*"))) < num_models:
        assert time.monotonic() < deadline, "no model appeared within 60 s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uninterrupted")
    process = start(root, 6)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    size = sum(path.stat().st_size for path in root.glob("ShapeNet*/**/*") if path.is_file())
    summary = re.escape(f"{root}: 12 models (12 new), 288 pictures, 32³ voxels; {size} bytes written in ")
    assert re.fullmatch(summary + r"\d+\.\d s\n", out)
    # Not a terminal: plain lines.
    assert f"making 12 built-in shapes in {root}\n" in err
    assert "\x1b" not in err
    return root


def test_a_killed_run_goes_on_and_ends_as_if_uninterrupted(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path, 6)
    wait_for(tmp_path, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    made = len(list(tmp_path.glob("ShapeNetRendering/*/*")))
    assert made < 12
    process = start(tmp_path, 6)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"12 models ({12 - made} new)" in out
    assert digests(tmp_path) == digests(uninterrupted)
    assert not (tmp_path / ".shapes.partial").exists()


def test_two_processes_at_once_make_every_model_once(uninterrupted: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path, 6), start(tmp_path, 6)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    made, waited = outputs if "(12 new)" in outputs[0][0] else outputs[::-1]
    assert "(12 new)" in made[0]
    assert "(0 new)" in waited[0]
    assert re.search(r"waiting for .*process.*, which is writing shapes to", waited[1])
    assert digests(tmp_path) == digests(uninterrupted)


def test_an_interrupt_leaves_nothing_half_made(tmp_path: Path) -> None:
    process = start(tmp_path, 20)
    wait_for(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / ".shapes.partial").exists()
    assert len(list(tmp_path.glob("ShapeNetRendering/*/*"))) == len(list(tmp_path.glob("ShapeNetVox32/*/*")))


@pytest.fixture(scope="module")
def forked() -> Iterator[Launcher]:
    """Run short commands of prepare."""
    with forking("hvd_r2n2.prepare") as run:
        yield run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{tmp}/out", "--models-per-category", "0"], "models per category 0 is out of range"),
        (["--out", "{tmp}/out", "--models-per-category", "1", "--categories", "lmap"], "did you mean 'lamp'"),
        (["--out", "{tmp}/file", "--models-per-category", "1"], "is a file; the shapes need a folder"),
        (["--out", "{tmp}/file/out", "--models-per-category", "1"], "Not a directory"),
        (["--out", "{tmp}/out", "--models-per-category", "1", "--resolution", "9999"], "it must be 2 to 512"),
    ],
)
def test_errors_are_one_line_and_a_status(tmp_path: Path, arguments: list[str], message: str, forked: Launcher) -> None:
    (tmp_path / "file").write_text("")
    done = forked("shapes", *(word.format(tmp=tmp_path) for word in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hvd_r2n2.prepare: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_library_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    with pytest.raises(ModuleNotFoundError, match=r"embreex is not installed.*pip install 'hvd_r2n2\[shapes\]'"):
        main(["shapes", "--out", str(tmp_path), "--models-per-category", "1"])
