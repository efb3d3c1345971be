"""The arms of `benchmark device` as plain data."""

from __future__ import annotations

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.device_arms import device_arms, for_inference, matrix_arms, same_as_defaults
from hvd_r2n2.models import REWRITES

CONFIG = load_config(None, ["train.batch_size=8", "evaluation.batch_size=5", "train.dtype=bfloat16"])
ALEXNET = load_config(None, ["model.name=alexnet"])
ALWAYS = ["plain", "default-float32", "default-bfloat16"]


def forms_of(*arguments: object) -> dict[str, tuple[str, str]]:
    own = [(arm.name, arm.config(CONFIG)) for arm in device_arms(CONFIG, *arguments)]  # type: ignore[arg-type]
    return {name: (config.model.form, config.train.dtype) for name, config in own}


def test_rewrites_are_added_one_after_the_other_between_plain_and_the_defaults() -> None:
    found = forms_of()
    assert list(found) == ["plain", *(f"+{name}" for name in REWRITES[:-1]), *ALWAYS[1:]]
    assert found["plain"] == ("plain", "float32")
    assert found["default-float32"] == ("fast", "float32")
    assert found["default-bfloat16"] == ("fast", "bfloat16")
    for number, name in enumerate(REWRITES[:-1], start=1):
        assert found[f"+{name}"] == ("+".join(REWRITES[:number]), "float32")


def test_last_rewrite_is_the_default_and_is_said_to_be() -> None:
    arms = device_arms(CONFIG)
    assert same_as_defaults(CONFIG, arms) == [f"+{REWRITES[-1]}"]


def test_defaults_that_leave_a_rewrite_out_are_arms_of_their_own() -> None:
    config = load_config(None, ["model.form=views"])
    names = [arm.name for arm in device_arms(config)]
    assert f"+{REWRITES[-1]}" in names
    assert "+views" not in names


def test_gpu_has_arms_of_its_own_after_all_others() -> None:
    assert [arm.name for arm in device_arms(CONFIG, device_type="cuda")] == [
        "plain",
        *(f"+{name}" for name in REWRITES),
        "+cuda-graphs",
        *ALWAYS[1:],
    ]
    found = {arm.name: arm.config(CONFIG).train for arm in device_arms(CONFIG, device_type="cuda")}
    assert [name for name, own in found.items() if own.tf32] == ["+cuda-graphs", *ALWAYS[1:]]
    assert [name for name, own in found.items() if own.cuda_graphs] == ["+cuda-graphs"]
    same = same_as_defaults(CONFIG, device_arms(CONFIG, device_type="cuda"), "cuda")
    assert same == ["+tf32"]
    graphed = load_config(None, ["train.cuda_graphs=true"])
    names = [arm.name for arm in device_arms(graphed, device_type="cuda")]
    assert names[-3:] == ["+tf32", *ALWAYS[1:]]


def test_chosen_arms_keep_plain_and_the_defaults() -> None:
    assert list(forms_of([])) == ALWAYS
    assert list(forms_of(["+unpool", "plain"])) == ["plain", "+unpool", *ALWAYS[1:]]
    found = forms_of([], [["mine", "model.form=layout"], ["half", "train.dtype=bfloat16"]])
    assert found["mine"] == ("layout", "float32")
    assert found["half"] == ("fast", "bfloat16")


def test_network_without_rewrites_has_plain_and_the_defaults() -> None:
    assert [arm.name for arm in device_arms(ALEXNET)] == ALWAYS


@pytest.mark.parametrize(
    ("chosen", "changes", "message"),
    [
        (["+unpol"], [], r"--arms: \+unpol is not known, did you mean \+unpool\? \(known: plain, "),
        (None, [["plain"]], r"--arm plain: write NAME SECTION\.KEY=VALUE"),
        (None, [["mine", "train.colour=3"]], r"arm mine: unknown key train\.colour"),
        (None, [["mine", "split.strategy=kernel"]], r"arm mine: split\.strategy must be none"),
    ],
)
def test_impossible_arms_are_refused(chosen: list[str] | None, changes: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        device_arms(CONFIG, chosen, changes)


def test_inference_has_the_batch_of_evaluation() -> None:
    arm = for_inference(device_arms(CONFIG)[0])
    assert (arm.kind, arm.samples(CONFIG)) == ("inference", 5)


def test_machine_is_measured_in_every_type_that_arms_compute_in() -> None:
    arms = matrix_arms(device_arms(CONFIG), CONFIG)
    assert [(arm.name, arm.kind) for arm in arms] == [("matrix-float32", "matrix"), ("matrix-bfloat16", "matrix")]
    assert [arm.config(CONFIG).train.dtype for arm in arms] == ["float32", "bfloat16"]
