"""Folders of labelled pictures, ROOT/CLASS/*.png (or .jpg, .jpeg): listed, split, checked as a whole, and read.

Pictures are decoded when they are trained on. The first time, all are decoded to check them, and what was found is
kept with the caches; later no file is opened before training unless one has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hvd_r2n2.common.files import read_json, replacing
from hvd_r2n2.common.names import nearest_hint
from hvd_r2n2.config import DataConfig
from hvd_r2n2.data.cache_build import CACHE_FOLDER, building, cache_folder
from hvd_r2n2.data.check import DataProblems, Problem
from hvd_r2n2.data.labelled import LabelledPictures
from hvd_r2n2.data.layout import ModelRef, file_state
from hvd_r2n2.data.picture_file import read_picture_file
from hvd_r2n2.data.progress import show_progress
from hvd_r2n2.data.samples import DamagedSampleError
from hvd_r2n2.data.sharing import map_in_order, num_cores
from hvd_r2n2.data.splits import R2N2, VALIDATION_FRACTION, Split, split_r2n2

SUFFIXES = (".png", ".jpg", ".jpeg")
_KINDS = ", ".join(SUFFIXES)

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Checked:
    """What a check of all pictures has found; `digest` is of their names and bytes."""

    fingerprint: str
    digest: str
    problems: tuple[Problem, ...]


class PictureFolder(LabelledPictures):
    """The pictures of a folder with a folder a class; made by `open_picture_folder`."""

    refs: tuple[ModelRef, ...]
    """The pictures, named as models are: by class and file."""

    def __init__(self, root: Path, classes: Sequence[str], split: Split, digest: str) -> None:
        """Take the pictures of a split; `digest` is of all files."""
        self._root = root
        self.classes = tuple(classes)
        self.split_name = split.name
        self.refs = split.models
        index = {ref: number for number, ref in enumerate(self.refs)}
        numbers = {name: number for number, name in enumerate(classes)}
        self.labels_N = np.array([numbers[ref.synset] for ref in self.refs], dtype=np.int64)
        parts = (split.train, split.validation, split.test)
        self.train, self.validation, self.test = (_positions(index, part) for part in parts)
        words = [*self.classes, digest, *("\n".join(map(str, part)) for part in parts)]
        self.content_digest = hashlib.sha256("\n\n".join(words).encode()).hexdigest()

    def _picture(self, index: int) -> Image.Image:
        ref = self.refs[index]
        try:
            return read_picture_file(self._root / ref.synset / ref.model_id)
        except (ValueError, FileNotFoundError) as error:  # not what a lost disk or network does to all files
            raise DamagedSampleError(str(error)) from error


def list_classes(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in `root`, sorted; hidden ones and that of the caches do not count.

    Raises:
        ValueError: there are none.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; labelled pictures are files {root}/CLASS/*.png (or {_KINDS[6:]})")
    names = [entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    classes = sorted(set(names) - {CACHE_FOLDER})
    if not classes:
        raise ValueError(f"{root}: no folders in it; labelled pictures are files {root}/CLASS/*.png (or {_KINDS[6:]})")
    return tuple(classes)


def open_picture_folder(
    config: DataConfig, root: Path, classes: Sequence[str], report: Report, head_start_s: float = 0.0
) -> PictureFolder:
    """List the pictures of the classes, check every file, and split them by the rule of 3D-R2N2.

    The files of a class sorted by name, the first 80 % train, a part of which is held back for validation; those
    to skip are then left out of their parts. Every rank may call this, also at the same time; nothing is communicated.
    Where there is something to check, another process is given `head_start_s` seconds to begin with it.

    Raises:
        DataProblems: (a ValueError) pictures are broken, or classes have none; all of them are named at once.
        ValueError: a setting does not go with labelled pictures, a picture to skip does not exist, or what the check
            finds cannot be written.
    """
    if config.split != R2N2:
        raise ValueError(f"data.split: {config.split} cannot split labelled pictures in folders, only {R2N2} can")
    present = {name: _list_pictures(root, name) for name in classes}
    skipped = {_find_skip(name, present, root) for name in config.skip_models}
    checked = _check(root, cache_folder(root, config.cache_dir), present, report, head_start_s)
    problems = [
        Problem(name, "missing category", str(root / name), f"there are no pictures ({_KINDS}) in this folder")
        for name, refs in present.items()
        if not refs
    ]
    left_out = {_in_utf8(str(ref)) for ref in skipped}
    problems += [problem for problem in checked.problems if problem.model not in left_out]
    if problems:
        raise DataProblems(problems, left_out, "picture")
    if skipped:
        report(f"{len(skipped):,} pictures are left out by data.skip_models")
    split = split_r2n2(present, config.validation_fraction or VALIDATION_FRACTION).without(skipped)
    trained = {ref.synset for ref in split.train}
    lacking = [name for name in classes if name not in trained]
    if lacking:
        hint = ", and data.skip_models must leave one that trains" if skipped else ""
        raise ValueError(
            f"{root}: too few pictures to train on in {', '.join(lacking)} (at least 2 each are needed{hint})"
        )
    return PictureFolder(root, classes, split, checked.digest)


def _positions(index: Mapping[ModelRef, int], part: Sequence[ModelRef]) -> npt.NDArray[np.int64]:
    return np.array([index[ref] for ref in part], dtype=np.int64)


def _list_pictures(root: Path, name: str) -> list[ModelRef]:
    try:
        with os.scandir(root / name) as entries:
            files = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [ModelRef(name, file) for file in sorted(files) if not file.startswith(".")]


def _find_skip(name: str, present: Mapping[str, Sequence[ModelRef]], root: Path) -> ModelRef:
    folder, _, file = name.partition("/")
    for ref in present.get(folder, ()):
        if _in_utf8(str(ref)) == name:
            return ref
    ref = ModelRef(folder, file)
    # A list for all classes stays valid when only some are chosen.
    if folder not in present and ref in _list_pictures(root, folder):
        return ref
    candidates = [str(other) for refs in present.values() for other in refs]
    hint = nearest_hint("; the nearest is {}", name, candidates)
    raise ValueError(f"data.skip_models: there is no picture {root / name}{hint}")


def _check(
    root: Path, folder: Path, present: Mapping[str, Sequence[ModelRef]], report: Report, head_start_s: float
) -> _Checked:
    """Return what is known of these files, after decoding all of them where they have changed."""
    refs = [ref for found in present.values() for ref in found]
    fingerprint = _fingerprint(root, refs)
    names = hashlib.sha256(os.fsencode("\n".join(present))).hexdigest()
    path = folder / f"pictures-{names[:20]}.json"
    known = _read_checked(path)
    if known is None or known.fingerprint != fingerprint:
        with building(folder, report, head_start_s):
            known = _read_checked(path)  # another process may have done it meanwhile
            if known is None or known.fingerprint != fingerprint:
                known = _check_all(root, refs, fingerprint, report)
                with replacing(path) as partial:
                    partial.write_text(json.dumps(asdict(known), indent=1) + "\n", encoding="utf-8")
    return known


def _fingerprint(root: Path, refs: Sequence[ModelRef]) -> str:
    """Return a hash of the names, sizes and modification times of files, and of where their names begin."""
    digest = hashlib.sha256()
    for ref in refs:
        digest.update(os.fsencode(f"{ref}\n{file_state(root / ref.synset / ref.model_id)}\n"))
    return digest.hexdigest()


def _read_checked(path: Path) -> _Checked | None:
    try:
        content = read_json(path)
        problems = tuple(Problem(**problem) for problem in content["problems"])
        return _Checked(str(content["fingerprint"]), str(content["digest"]), problems)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever is wrong with it, checking anew is right


def _check_all(root: Path, refs: Sequence[ModelRef], fingerprint: str, report: Report) -> _Checked:
    report(f"checking {len(refs):,} pictures in {root}")
    digest = hashlib.sha256()
    problems = []
    with (
        ThreadPoolExecutor(num_cores(), thread_name_prefix="hvd_r2n2-check") as executor,
        show_progress("checking pictures", len(refs), report) as advance,
    ):
        for found, problem in map_in_order(executor, lambda ref: _check_one(root, ref), refs):
            digest.update(found)
            problems += [problem] if problem is not None else []
            advance(1)
    return _Checked(fingerprint, digest.hexdigest(), tuple(problems))


def _in_utf8(name: str) -> str:
    """Return a file's name with \\udcXX for each byte that is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _check_one(root: Path, ref: ModelRef) -> tuple[bytes, Problem | None]:
    """Decode a picture; return a hash of its name and bytes, and what is wrong with it."""
    path = root / ref.synset / ref.model_id
    digest = hashlib.sha256(os.fsencode(f"{ref}\n"))
    if _in_utf8(str(ref)) != str(ref):
        return digest.digest(), Problem(_in_utf8(str(ref)), "broken name", _in_utf8(str(path)), "not UTF-8: rename it")
    if path.is_dir():
        return digest.digest(), Problem(str(ref), "broken picture", str(path), "a folder")
    try:
        read_picture_file(path)  # first: it checks the sizes
        digest.update(path.read_bytes())
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.removeprefix("picture ").removeprefix(f"{path} ")
        return digest.digest(), Problem(str(ref), "broken picture", str(path), reason)
    return digest.digest(), None
