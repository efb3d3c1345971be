import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvd_r2n2.data.layout import ModelRef
from hvd_r2n2.data.splits import read_split_file, split_r2n2

CHAIR, LAMP = "03001627", "03636649"


def refs(synset: str, ids: str) -> list[ModelRef]:
    return [ModelRef(synset, model_id) for model_id in ids]


def test_the_rule_of_the_released_code_sorts_ids_and_takes_the_first_80_percent() -> None:
    split = split_r2n2({CHAIR: refs(CHAIR, "jbcdefghia"), LAMP: refs(LAMP, "cba")}, 0.0)
    assert split.name == "r2n2"
    # int(0.8 * 10) = 8 and int(0.8 * 3) = 2.
    assert split.train == (*refs(CHAIR, "abcdefgh"), *refs(LAMP, "ab"))
    assert split.test == (*refs(CHAIR, "ij"), *refs(LAMP, "c"))
    assert split.validation == ()


def test_the_float_rule_of_the_released_code_is_four_fifths_rounded_down() -> None:
    for count in range(1, 200):
        split = split_r2n2({CHAIR: [ModelRef(CHAIR, f"{number:04d}") for number in range(count)]}, 0.0)
        assert len(split.train) == 4 * count // 5
        assert len(split.test) == count - 4 * count // 5


def test_validation_is_the_train_models_of_smallest_hash_and_never_a_test_model() -> None:
    ids = "abcdefghijklmnopqrstuvwxy"  # 25 models: 20 train, of which 10 % validate
    split = split_r2n2({CHAIR: refs(CHAIR, ids)}, 0.1)
    by_hash = sorted(ids[:20], key=lambda model_id: hashlib.sha256(f"{CHAIR}/{model_id}".encode()).hexdigest())
    assert {ref.model_id for ref in split.validation} == set(by_hash[:2])
    assert set(split.train) | set(split.validation) == set(refs(CHAIR, ids[:20]))
    assert not set(split.train) & set(split.validation)
    assert split.test == tuple(refs(CHAIR, ids[20:]))


def test_a_small_category_still_gives_one_validation_model_and_keeps_one_to_train() -> None:
    split = split_r2n2({CHAIR: refs(CHAIR, "abc"), LAMP: refs(LAMP, "a")}, 0.01)
    assert len(split.train) == len(split.validation) == 1
    assert split.test == (*refs(CHAIR, "c"), *refs(LAMP, "a"))


def test_the_official_file_has_the_published_counts(shared_data: Path) -> None:
    split = read_split_file(shared_data / "ShapeNet.json")
    assert split.name == "ShapeNet.json"
    assert (len(split.train), len(split.validation), len(split.test)) == (30643, 4371, 8770)
    assert len(set(split.models)) == 43784


def test_the_r2n2_rule_on_the_official_ids_gives_four_fifths_of_each_category(shared_data: Path) -> None:
    by_synset: dict[str, list[ModelRef]] = {}
    for ref in read_split_file(shared_data / "ShapeNet.json").models:
        by_synset.setdefault(ref.synset, []).append(ref)
    split = split_r2n2(by_synset, 0.1)
    expected = sum(4 * len(models) // 5 for models in by_synset.values())
    assert len(by_synset) == 13
    assert len(split.train) + len(split.validation) == expected
    assert len(split.test) == 43784 - expected
    assert abs(len(split.validation) - 0.1 * expected) < 13


def entry(synset: str = CHAIR, **changes: Any) -> dict[str, Any]:
    return {"taxonomy_id": synset, "taxonomy_name": "x", "train": ["a"], "val": ["b"], "test": ["c"], **changes}


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        path = tmp_path / "split.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_split_file_is_read_and_sorted(write_split: Callable[[Any], Path]) -> None:
    split = read_split_file(write_split([entry(LAMP), entry(train=["z", "d"], baseline={"1-view": 0.5})]))
    assert split.train == (*refs(CHAIR, "dz"), *refs(LAMP, "a"))
    assert split.validation == (*refs(CHAIR, "b"), *refs(LAMP, "b"))
    assert split.test == (*refs(CHAIR, "c"), *refs(LAMP, "c"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('[{"train": [], "train": []}]', "the key 'train' stands twice"),
        ({}, "must be a list"),
        ([], "must be a list"),
        ([3], "entry 0: taxonomy_id None"),
        ([entry("00000000")], "taxonomy_id '00000000' is not one of the 13"),
        ([entry(), entry()], f"entry 1: the category {CHAIR} has an entry already"),
        ([{"taxonomy_id": CHAIR, "train": [], "test": []}], f"{CHAIR}: no 'val'"),
        ([entry(val="b")], "'val' must be a list"),
        ([entry(val=[7])], "'val' has '7', which cannot be a model's id"),
        ([entry(val=["../b"])], "'../b', which cannot be a model's id"),
        ([entry(val=["/etc/passwd"])], "'/etc/passwd', which cannot be"),
        ([entry(val=[".."])], "'..', which cannot be"),
        ([entry(val=["b\x00"])], "which cannot be a model's id"),
        ([entry(val=[""])], "'', which cannot be"),
        ([entry(val=["a"])], f"{CHAIR}/a is in two parts, 'train' and 'val'"),
        ([entry(test=["c", "c"])], "'test' names c twice"),
    ],
)
def test_a_malformed_split_file_is_refused(write_split: Callable[[Any], Path], content: Any, message: str) -> None:
    path = write_split(content)
    with pytest.raises(ValueError) as caught:
        read_split_file(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_all_faults_of_a_split_file_are_told_at_once(write_split: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError) as caught:
        read_split_file(write_split([entry("1"), entry(val=["../b"]), entry(LAMP, test=["a"])]))
    for message in ("taxonomy_id '1'", "'../b'", f"{LAMP}/a is in two parts"):
        assert message in str(caught.value)
