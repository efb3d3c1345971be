import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data import cache as cache_file
from hvd_r2n2.data import cache_build, layout, sharing
from hvd_r2n2.data.dataset import Dataset, open_dataset
from hvd_r2n2.data.layout import ModelRef, fingerprint

CHAIR, LAMP = "03001627", "03636649"
LayoutMaker = Callable[..., Path]

OPEN = """
import sys
from pathlib import Path
from hvd_r2n2.config import DataConfig
from hvd_r2n2.data import cache_build
from hvd_r2n2.data.dataset import open_dataset
def say(message): print(message, flush=True)
def open_and_say(root):
    say("digest " + open_dataset(DataConfig(), Path(root), 32, say, 2).content_digest)
"""


def opened(root: Path, told: list[str] | None = None, **settings: object) -> Dataset:
    report = (told if told is not None else []).append
    return open_dataset(DataConfig(root=str(root), **settings), root, 32, report, 2)  # type: ignore[arg-type]


def caches(folder: Path) -> dict[str, int]:
    """The inode of each category's cache file: a file that is written anew has another one."""
    return {path.name[:8]: path.stat().st_ino for path in folder.rglob("*.cache")}


def refuse_to_decode(*arguments: object) -> NoReturn:
    pytest.fail("a file is decoded again")


@pytest.fixture
def root(make_layout: LayoutMaker) -> Path:
    return make_layout({CHAIR: ["a", "b"], LAMP: ["c"]})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Start this Python on a script; what is still running at the end is killed."""
    processes = []

    def start_script(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", script]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return processes[-1]

    yield start_script
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()  # not read to its end: a child that lived on would keep it open


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    pytest.fail(f"no line with {text!r} in {''.join(seen)!r}")


def test_the_second_time_nothing_is_decoded_or_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    first = opened(root, told)
    assert any(line.startswith("writing ") for line in told)
    before = caches(root)
    assert list(before) == [CHAIR, LAMP] or list(before) == [LAMP, CHAIR]
    monkeypatch.setattr(cache_build, "decode_model", refuse_to_decode)
    told.clear()
    second = opened(root, told)
    assert told == []
    assert caches(root) == before
    assert second.content_digest == first.content_digest
    np.testing.assert_array_equal(second.images(0, [0, 1]), first.images(0, [0, 1]))


def test_a_changed_file_rebuilds_its_category_alone_and_removes_the_old_cache(root: Path) -> None:
    before, old = opened(root), caches(root)
    path = root / "ShapeNetRendering" / LAMP / "c" / "rendering" / "00.png"
    pixels = np.full((137, 137, 4), (1, 2, 3, 255), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    after, new = opened(root), caches(root)
    assert new[CHAIR] == old[CHAIR]
    assert len(list(root.rglob("*.cache"))) == 2
    np.testing.assert_array_equal(after.images(2, [0])[0], pixels)
    assert after.content_digest != before.content_digest
    # Who had opened the old cache can still read it.
    assert not np.array_equal(before.images(2, [0])[0], pixels)


def test_a_new_and_a_removed_model_are_seen(root: Path, make_layout: LayoutMaker) -> None:
    assert len(opened(root)) == 3
    make_layout({CHAIR: ["d"]})
    assert [ref.model_id for ref in opened(root).refs] == ["a", "b", "d", "c"]
    shutil.rmtree(root / "ShapeNetRendering" / CHAIR / "a")
    shutil.rmtree(root / "ShapeNetVox32" / CHAIR / "a")
    assert [ref.model_id for ref in opened(root).refs] == ["b", "d", "c"]


def test_the_fingerprint_sees_sizes_times_and_names_but_not_where_the_folder_is(root: Path) -> None:
    models = [ModelRef(CHAIR, "a"), ModelRef(CHAIR, "b")]
    path = root / "ShapeNetVox32" / CHAIR / "a" / "model.binvox"
    status = path.stat()
    original = fingerprint(root, models, 32, 2)
    assert fingerprint(root.rename(root.with_name("moved")), models, 32, 2) == original
    root.with_name("moved").rename(root)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = fingerprint(root, models, 32, 2)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(root, models, 32, 2) == original
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    longer = fingerprint(root, models, 32, 2)
    path.unlink()
    gone = fingerprint(root, models, 32, 2)
    others = {fingerprint(root, models[1:], 32, 2), fingerprint(root, models, 64, 2), fingerprint(root, models, 32, 1)}
    assert len({original, touched, longer, gone, *others}) == 7


def test_the_fingerprint_is_the_same_where_files_must_be_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ModelRef(CHAIR, name) for name in ("a", "b", "missing")]
    (root / "ShapeNetRendering" / CHAIR / "b" / "rendering" / "01.png").unlink()
    quick = fingerprint(root, models, 32, 2)
    threads = set()
    state = layout.file_state

    def noting(path: str) -> str:
        threads.add(threading.current_thread().name)
        return state(path)

    monkeypatch.setattr(layout, "file_state", noting)
    monkeypatch.setattr(layout, "_SCAN_TRIALS", 1)
    monkeypatch.setattr(layout.time, "thread_time", lambda: 0.0)  # as if the processor had only waited
    assert fingerprint(root, models, 32, 2) == quick
    assert any(name.startswith("hvd_r2n2-scan") for name in threads)
    threads.clear()
    monkeypatch.setattr(layout.time, "thread_time", layout.time.monotonic)  # as if it never had
    assert fingerprint(root, models, 32, 2) == quick
    assert threads == {threading.current_thread().name}


def test_another_process_gets_a_head_start_only_where_there_is_something_to_build(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(sharing.time, "sleep", slept.append)
    for _ in range(2):
        open_dataset(DataConfig(), root, 32, lambda text: None, 2, head_start_s=0.25)
    assert slept == [0.25]


@pytest.mark.parametrize("damage", ["truncated", "longer", "header", "index", "foreign", "empty", "renamed"])
def test_a_cache_that_is_not_whole_or_not_ours_is_built_anew(root: Path, damage: str) -> None:
    digest = opened(root).content_digest
    (path,) = root.rglob(f"{CHAIR}-*.cache")
    data = path.read_bytes()
    (other,) = root.rglob(f"{LAMP}-*.cache")
    path.write_bytes(
        {
            "truncated": data[:-1],
            "longer": data + b"\0",
            "header": data[:16] + bytes([data[16] ^ 1]) + data[17:],
            "index": data[:-1] + bytes([data[-1] ^ 1]),
            "foreign": b"something else entirely" * 100,
            "empty": b"",
            "renamed": other.read_bytes(),
        }[damage]
    )
    told: list[str] = []
    assert opened(root, told).content_digest == digest
    assert path.read_bytes() == data
    assert any(str(path) in line and "it is built anew" in line for line in told)


@pytest.mark.parametrize("forgery", ["list", "no models", "deep", "other model", "box outside"])
def test_a_cache_whose_index_is_forged_is_built_anew(root: Path, forgery: str) -> None:
    digest = opened(root).content_digest
    (path,) = root.rglob(f"{CHAIR}-*.cache")
    data = path.read_bytes()
    offset, index = cache_file._read_index(path)
    length = int.from_bytes(index[:8], "little")
    described, tables = json.loads(index[8 : 8 + length]), bytearray(index[8 + length :])
    if forgery == "no models":
        del described["models"]
    elif forgery == "other model":
        described["models"][0] = "../x"
    elif forgery == "box outside":  # shifted: its rectangle is as large as before
        tables[0:2] = b"\xff\xff"
    text = {"list": "[]", "deep": "[" * 100_000}.get(forgery, json.dumps(described)).encode()
    forged = len(text).to_bytes(8, "little") + text + tables
    total = offset + len(forged)
    preamble = cache_file.PREAMBLE.pack(data[:16], offset, len(forged), total, hashlib.sha256(forged).digest())
    path.write_bytes(preamble + data[len(preamble) : offset] + forged)
    told: list[str] = []
    assert opened(root, told).content_digest == digest
    assert path.read_bytes() == data
    assert any(str(path) in line and "it is built anew" in line for line in told)


def test_broken_models_are_remembered_so_that_skipping_them_decodes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "ShapeNetVox32" / CHAIR / "a" / "model.binvox").write_bytes(b"x")
    messages = []
    for _ in range(2):
        with pytest.raises(ValueError, match="not a binvox file") as caught:
            opened(root)
        messages.append(str(caught.value))
        monkeypatch.setattr(cache_build, "decode_model", refuse_to_decode)
    assert messages[0] == messages[1]
    dataset = opened(root, skip_models=(f"{CHAIR}/a",))
    assert [ref.model_id for ref in dataset.refs] == ["b", "c"]
    monkeypatch.undo()
    shutil.rmtree(root / "ShapeNetVox32" / CHAIR / "a")
    shutil.rmtree(root / "ShapeNetRendering" / CHAIR / "a")
    fresh = opened(root)
    for index in range(2):
        np.testing.assert_array_equal(dataset.images(index, [0, 1]), fresh.images(index, [0, 1]))
        np.testing.assert_array_equal(dataset.occupancy(index), fresh.occupancy(index))


def test_of_two_processes_one_builds_and_the_other_waits_for_it(
    root: Path, start: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    folder = root / cache_build.CACHE_FOLDER
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start(f"{OPEN}\nopen_and_say({str(root)!r})") for _ in range(2)]
        for process in processes:
            assert "which is building the cache" in line_with(process, "waiting for")
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("writing" in output for output in outputs) == 1
    digests = {re.findall("digest (.*)", output)[0] for output in outputs}
    assert digests == {opened(root).content_digest}


HANG = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
decode = cache_build.decode_model
def decode_some(root, ref, *rest):
    if str(ref) == HANG_AT:
        say("hanging"); time.sleep(3)
    return decode(root, ref, *rest)
cache_build.decode_model = decode_some
"""


def journal_lines(folder: Path, synset: str) -> int:
    return sum(len(path.read_bytes().splitlines()) - 1 for path in folder.glob(f"{synset}-*.journal"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_goes_on_after_the_last_model_it_finished(
    sent: signal.Signals,
    make_layout: LayoutMaker,
    start: Callable[[str], "subprocess.Popen[str]"],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = make_layout({CHAIR: ["a", "b", "c"], LAMP: ["a", "b", "c", "d", "e", "f"]})
    folder = root / cache_build.CACHE_FOLDER
    whole = opened(root, cache_dir=str(tmp_path / "elsewhere"))
    hanging = HANG.replace("HANG_AT", repr(f"{LAMP}/e"))
    process = start(f"{OPEN}{hanging}\nopen_and_say({str(root)!r})")
    line_with(process, "hanging")
    deadline = time.monotonic() + 30
    while journal_lines(folder, LAMP) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    finished = caches(root)
    assert list(finished) == [CHAIR]
    process.send_signal(sent)
    assert process.wait() != 0
    told: list[str] = []
    again: list[str] = []
    decode = cache_build.decode_model

    def count(root: Path, ref: ModelRef, *rest: int) -> object:
        again.append(str(ref))
        return decode(root, ref, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_build, "decode_model", count)
    dataset = opened(root, told)
    assert sorted(again) == [f"{LAMP}/e", f"{LAMP}/f"]
    assert not any("waiting" in line for line in told)  # the lock died with its holder
    assert "going on after 4 models that an interrupted build has decoded" in told
    assert caches(root)[CHAIR] == finished[CHAIR]
    assert not [path for path in folder.iterdir() if path.suffix not in (".cache", "")]
    assert dataset.content_digest == whole.content_digest
    one, other = (
        {path.name: path.read_bytes() for path in place.rglob("*.cache")} for place in (folder, tmp_path / "elsewhere")
    )
    assert one == other


@pytest.mark.parametrize(
    ("damage", "num_kept"),
    [
        ("none", 3),
        ("payload shorter", 2),
        ("payload lost", 0),
        ("payload changed", 2),
        ("payload longer", 3),
        ("line torn", 2),
        ("line longer", 2),
        ("line swapped", 0),
        ("line forged", 0),
        ("deep", 0),
        ("another key", 0),
        ("journal lost", 0),
    ],
)
def test_what_an_interrupted_build_left_is_taken_as_far_as_it_is_whole(
    make_layout: LayoutMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, num_kept: int
) -> None:
    root = make_layout({CHAIR: ["a", "b", "c", "d"]})
    (root / "ShapeNetVox32" / CHAIR / "b" / "model.binvox").write_bytes(b"x")  # its problem is kept as well
    folder, settings = root / cache_build.CACHE_FOLDER, {"skip_models": (f"{CHAIR}/b",)}
    whole = opened(root, cache_dir=str(tmp_path / "elsewhere"), **settings)
    decode = cache_build.decode_model

    def interrupted(root: Path, ref: ModelRef, *rest: int) -> object:
        if ref.model_id == "d":
            raise KeyboardInterrupt
        return decode(root, ref, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cache_build, "decode_model", interrupted)
        patch.setattr(cache_build, "_NUM_ESTIMATE_MODELS", 1)
        with pytest.raises(KeyboardInterrupt):
            opened(root, **settings)
    (payloads,), (journal,) = folder.glob("*.partial"), folder.glob("*.journal")
    content, (header, *lines) = payloads.read_bytes(), journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    if damage.startswith("payload"):
        changed = content[:-1] + bytes([content[-1] ^ 1])
        kept = {"shorter": content[:-1], "lost": b"", "changed": changed, "longer": content + b"x" * 100}
        payloads.write_bytes(kept[damage.split()[1]])
    elif damage != "none":
        key = json.loads(header)
        record = json.loads(lines[0])
        record["boxes"] = "ff" * 8
        text = {
            "line torn": [header, *lines[:2], lines[2][:-1]],
            "line longer": [header, *lines[:2], lines[2][:-1] + b"x\n"],
            "line swapped": [header, lines[1], lines[0], lines[2]],
            "line forged": [header, json.dumps(record).encode() + b"\n", *lines[1:]],
            "deep": [header, b"[" * 50_000 + b"\n", *lines],
            "another key": [json.dumps(key | {"num_views": 3}).encode() + b"\n", *lines],
            "journal lost": [],
        }[damage]
        journal.write_bytes(b"".join(text))
    told: list[str] = []
    dataset = opened(root, told, **settings)
    recovered = [line for line in told if line.startswith("going on after")]
    expected = [f"going on after {num_kept} models that an interrupted build has decoded"] if num_kept else []
    assert recovered == expected
    assert dataset.content_digest == whole.content_digest
    one, other = (
        {path.name: path.read_bytes() for path in place.rglob("*.cache")} for place in (folder, tmp_path / "elsewhere")
    )
    assert one == other
    assert not [path for path in folder.iterdir() if path.suffix not in (".cache", "")]


def test_what_an_interrupted_build_left_of_other_files_is_removed(root: Path) -> None:
    folder = root / cache_build.CACHE_FOLDER
    folder.mkdir()
    stale = [folder / f"{CHAIR}-32-0123456789abcdef0123.cache{suffix}" for suffix in (".partial", ".journal", "")]
    kept = folder / f"{CHAIR}-64-0123456789abcdef0123.cache.partial"  # of another resolution, perhaps being built
    for path in (*stale, kept):
        path.write_bytes(b"something")
    opened(root)
    assert not any(path.exists() for path in stale)
    assert kept.exists()


def test_processes_write_the_same_file_as_threads(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened(root, cache_dir=str(tmp_path / "threads"))
    monkeypatch.setattr(cache_build, "_MIN_PICTURES_FOR_PROCESSES", 0)
    monkeypatch.setattr(cache_build, "num_cores", lambda: 2)
    monkeypatch.setattr(sharing, "num_cores", lambda: 2)
    opened(root, cache_dir=str(tmp_path / "processes"))
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.cache")}
        for name in ("threads", "processes")
    )
    assert len(one) == 2
    assert one == other


def test_decoding_processes_end_with_the_process_that_started_them(
    start: Callable[[str], "subprocess.Popen[str]"],
) -> None:
    process = start(
        "import os, time; from multiprocessing import get_context\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from hvd_r2n2.data.cache_build import _serve_parent\n"
        "pool = ProcessPoolExecutor(1, mp_context=get_context('spawn'), initializer=_serve_parent)\n"
        "print('worker', pool.submit(os.getpid).result(), flush=True); time.sleep(600)"
    )
    worker = int(line_with(process, "worker").split()[1])
    assert Path(f"/proc/{worker}/stat").exists()
    process.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/stat").exists() and " Z " not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)


def test_the_size_is_told_beforehand_with_the_room_there_is(root: Path) -> None:
    told: list[str] = []
    opened(root, told)
    size = sum(path.stat().st_size for path in root.rglob("*.cache"))
    (line,) = (line for line in told if line.startswith("writing"))
    found = re.fullmatch(r"writing ([0-9.]+) MB of decoded data to (.*), [0-9.]+ [MG]B free", line)
    assert found is not None
    assert abs(float(found[1]) * 1e6 - size) < 0.06e6  # one decimal, and the index besides
    assert found[2] == str(root / cache_build.CACHE_FOLDER)


def test_too_little_room_is_an_error_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"the cache needs 0\.\d MB, but the disk of .* has 0\.0 MB free; .*cache_dir"):
        opened(root)
    assert not list(root.rglob("*.cache*"))


def test_a_disk_that_fills_up_is_told_and_leaves_no_half_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"the disk of .*hvd_r2n2_cache is full.*data\.cache_dir"):
            opened(root)
    assert not list(root.rglob("*.cache*"))
    assert len(opened(root)) == 3


def test_a_folder_that_cannot_be_written_asks_for_a_cache_dir(root: Path, tmp_path: Path) -> None:
    (root / cache_build.CACHE_FOLDER).write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"cannot write the decoded cache to .*; set data\.cache_dir to a folder"):
        opened(root)
    assert len(opened(root, cache_dir=str(tmp_path / "elsewhere" / "deep"))) == 3


def test_two_data_sets_share_a_cache_dir_without_touching_each_other(make_layout: LayoutMaker, tmp_path: Path) -> None:
    roots = [make_layout({CHAIR: ["a", name]}, name=name) for name in ("one", "two")]
    shared = str(tmp_path / "shared")
    for _ in range(2):
        for root in roots:
            assert [ref.model_id for ref in opened(root, cache_dir=shared).refs] == ["a", root.name]
    assert len(list(Path(shared).rglob("*.cache"))) == 2
    assert not list(tmp_path.glob("*/hvd_r2n2_cache"))


def test_a_file_system_without_locks_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=r"has no file locks .*data\.cache_dir to a folder on a local disk"):
        opened(root)
