"""Which models train, validate and test: the rule of 3D-R2N2's released code, or a file like Pix2Vox's."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvd_r2n2.data.categories import CATEGORIES
from hvd_r2n2.data.layout import ModelRef, is_model_id

R2N2 = "r2n2"
VALIDATION_FRACTION = 0.1
"""Share of the train part that is held back where the settings say nothing."""

_TRAIN_PORTION = 0.8
_MAX_FILE_BYTES = 1 << 26
_MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of models, each sorted by synset and id."""

    name: str
    train: tuple[ModelRef, ...]
    validation: tuple[ModelRef, ...]
    test: tuple[ModelRef, ...]

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """All models of the split, sorted."""
        return tuple(sorted((*self.train, *self.validation, *self.test)))

    def without(self, skipped: Set[ModelRef]) -> "Split":
        """Return the split with some models left out; all others stay in their parts."""
        parts = (self.train, self.validation, self.test)
        return Split(self.name, *(tuple(ref for ref in part if ref not in skipped) for part in parts))


def split_r2n2(models: Mapping[str, Sequence[ModelRef]], validation_fraction: float) -> Split:
    """Split the models of each synset by the rule of the released code, and hold a part back for validation.

    With the ids sorted, the first `int(0.8 n)` of a category train and the rest test (chrischoy/3D-R2N2,
    lib/data_io.py, portions [0, 0.8] and [0.8, 1]). The original validates on the test part; here the validation
    part is carved from the train part: in each category the `validation_fraction` of its train models, rounded to
    the nearest number but at least one where there are two, whose names `synset/model` have the smallest sha256.
    So the choice has nothing to do with the order of the ids or with a seed, and hardly changes when models are added.
    """
    train: list[ModelRef] = []
    validation: list[ModelRef] = []
    test: list[ModelRef] = []
    for refs in models.values():
        ordered = sorted(refs)
        num_train = int(len(ordered) * _TRAIN_PORTION)
        held_back = _held_back(ordered[:num_train], validation_fraction)
        train += (ref for ref in ordered[:num_train] if ref not in held_back)
        validation += held_back
        test += ordered[num_train:]
    return Split(R2N2, tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def read_split_file(path: Path) -> Split:
    """Read a split in the format of Pix2Vox's ShapeNet.json: a list of {taxonomy_id, taxonomy_name, train, val, test}.

    Other keys (the original has `baseline`) are passed over. The split is named after the file.

    Raises:
        ValueError: the file is not of that format, or names a model twice; all faults are told at once.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path}: the file is too large for a split (at most {_MAX_FILE_BYTES:,} bytes)")
    try:
        entries = json.loads(path.read_bytes(), object_pairs_hook=_object_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    problems: list[str] = []
    parts: dict[str, dict[str, list[ModelRef]]] = {}
    if not isinstance(entries, list) or not entries:
        problems.append("the file must be a list with an entry for each category")
        entries = []
    for number, entry in enumerate(entries):
        synset = entry.get("taxonomy_id") if isinstance(entry, dict) else None
        if not isinstance(synset, str) or synset not in CATEGORIES:
            shown = repr(synset)[:80]
            problems.append(f"entry {number}: taxonomy_id {shown} is not one of the 13 categories of 3D-R2N2")
        elif synset in parts:
            problems.append(f"entry {number}: the category {synset} has an entry already")
        else:
            parts[synset] = {key: _read_part(entry, synset, key, problems) for key in ("train", "val", "test")}
            problems += _repeated(synset, parts[synset])
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:_MAX_PROBLEMS_SHOWN])
        more = f"\n  ... and {len(problems) - _MAX_PROBLEMS_SHOWN} more" if len(problems) > _MAX_PROBLEMS_SHOWN else ""
        raise ValueError(f"{path}: not a split of {{taxonomy_id, taxonomy_name, train, val, test}}:{shown}{more}")
    train, validation, test = (
        tuple(sorted(ref for part in parts.values() for ref in part[key])) for key in ("train", "val", "test")
    )
    return Split(path.name, train, validation, test)


def _held_back(train: Sequence[ModelRef], fraction: float) -> set[ModelRef]:
    if fraction <= 0 or len(train) < 2:
        return set()
    count = min(max(1, int(fraction * len(train) + 0.5)), len(train) - 1)
    # Bytes as in the file system: the name of a picture to skip need not be UTF-8.
    return set(sorted(train, key=lambda ref: hashlib.sha256(os.fsencode(str(ref))).digest())[:count])


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    if repeated:
        raise ValueError(f"the key {repeated[0][:80]!r} stands twice in one entry")
    return dict(pairs)


def _read_part(entry: Mapping[str, Any], synset: str, key: str, problems: list[str]) -> list[ModelRef]:
    ids = entry.get(key)
    if not isinstance(ids, list):
        problems.append(f"{synset}: {key!r} must be a list of model ids" if key in entry else f"{synset}: no {key!r}")
        return []
    refs = []
    for model_id in ids:
        if isinstance(model_id, str) and is_model_id(model_id):
            refs.append(ModelRef(synset, model_id))
        else:
            problems.append(f"{synset}: {key!r} has {str(model_id)[:80]!r}, which cannot be a model's id")
    return refs


def _repeated(synset: str, parts: Mapping[str, Sequence[ModelRef]]) -> list[str]:
    home: dict[ModelRef, str] = {}
    problems = []
    for key, refs in parts.items():
        for ref in refs:
            if home.setdefault(ref, key) != key:
                problems.append(f"{ref} is in two parts, {home[ref]!r} and {key!r}")
        twice = next((ref for ref, count in Counter(refs).items() if count > 1), None)
        if twice is not None:
            problems.append(f"{synset}: {key!r} names {twice.model_id} twice")
    return problems
