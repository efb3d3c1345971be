"""Strict loading: what is read, and what each mistake is told."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from hvd_r2n2.config import Config, load_config, to_mapping, to_yaml, with_overrides
from hvd_r2n2.config.load import config_from_mapping

REPOSITORY = Path(__file__).resolve().parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_no_file_is_the_built_in_recipe() -> None:
    assert load_config() == Config()


def test_file_and_overrides_are_merged(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  steps: 7\n  seed: 3\noptimizer: {learning_rate: 1e-4}\n")
    config = load_config(path, ["train.steps=9", "data.categories=[chair, '02691156']", "train.clip_norm=2"])
    assert (config.train.steps, config.train.seed, config.train.clip_norm) == (9, 3, 2.0)
    assert config.optimizer.learning_rate == 1e-4
    assert config.data.categories == ("chair", "02691156")


def test_mistakes_name_the_file_and_whether_the_command_line_changed_it(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {steps: 7}\n")
    with pytest.raises(ValueError, match=rf"^{path} with --set: train\.steps: 0 is not possible"):
        load_config(path, ["train.steps=0"])
    with pytest.raises(ValueError, match=r"^--set: train\.steps: 0 is not possible"):
        load_config(None, ["train.steps=0"])
    with pytest.raises(ValueError, match=rf"^{path}: unknown key train\.stpes"):
        load_config(write(tmp_path, "train: {stpes: 7}\n"))


def test_overrides_of_loaded_settings_are_as_strict() -> None:
    config = with_overrides(load_config(), ["train.steps=3"], "--set")
    assert config == load_config(None, ["train.steps=3"])
    with pytest.raises(ValueError, match=r"--set: unknown key train\.stpes"):
        with_overrides(config, ["train.stpes=4"], "--set")


def test_yaml_written_is_read_back_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["data.background=[3, 4]", "optimizer.betas=[0.5, 0.9]", "train.dtype=float64"])
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert config_from_mapping(to_mapping(config), "here") == config


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    assert load_config(path) != Config()


def test_every_field_has_a_docstring() -> None:
    source = (REPOSITORY / "hvd_r2n2" / "config" / "sections.py").read_text()
    lines = source.splitlines()
    for section in fields(Config):
        for item in fields(type(getattr(Config(), section.name))):
            number = next(n for n, line in enumerate(lines) if line.startswith(f"    {item.name}: "))
            assert lines[number + 1].startswith('    """'), item.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=5", r"unknown key train\.stpes \(did you mean train\.steps\?\)"),
        ("trian.steps=5", r"unknown key trian \(did you mean train\?\)"),
        ("train.learning_rate=1", r"did you mean optimizer\.learning_rate"),
        ("train.steps=five", r"train\.steps: a whole number is needed, 'five' is a text"),
        ("train.steps=1.5", r"train\.steps: a whole number is needed, 1\.5 is a number"),
        ("train.steps=true", r"train\.steps: a whole number is needed, True is a true or false"),
        ("train.steps=null", r"train\.steps: a whole number is needed, None is a null"),
        ("train.steps=0", r"train\.steps: 0 is not possible \(1 to 1,000,000,000\)"),
        ("train.steps=[1]", r"train\.steps: a whole number is needed, \[1\] is a list"),
        ("optimizer.learning_rate=.nan", r"optimizer\.learning_rate: nan is not possible"),
        ("optimizer.learning_rate=-1", r"optimizer\.learning_rate: -1\.0 is not possible \(more than 0\)"),
        ("optimizer.decay=0.5", r"optimizer\.decay: would be ignored, it only goes with optimizer\.schedule=steps"),
        ("optimizer.momentum=0.5", r"optimizer\.momentum: would be ignored"),
        ("optimizer.schedule=steps", r"optimizer\.milestones: needed"),
        ("optimizer.scale_learning_rate=linear", r"optimizer\.base_batch_size: needed"),
        ("model.name=res3d-gru3", r"did you mean res3d-gru-3"),
        ("model.cross=defualt", r"model\.cross: 'defualt' .*did you mean default.*or a list is needed"),
        ("model.cross=[conv3, conv3]", r"model\.cross: \['conv3', 'conv3'\] names a stage twice"),
        ("model.num_classes=13", r"model\.num_classes: would be ignored, it only goes with model\.name=alexnet"),
        ("model.voxel_resolution=48", r"48 is not possible \(one of 32, 64, 128"),
        ("data.background=[1]", r"a list of 2 is needed, \[1\] has 1"),
        ("data.background=[250, 240]", r"data\.background: \[250, 240\] is not possible"),
        ("data.categories=[]", r"data\.categories: the list is empty"),
        ("train.min_views=4", r"train\.min_views: 4 is more than train\.max_views"),
        ("train.accumulation=0", r"train\.accumulation: 0 is not possible \(1 or more\)"),
        ("train.cpu_threads=3000000000", r"train\.cpu_threads: 3000000000 is not possible \(1 to 4,096\)"),
        ("optimizer.milestones=[-1, 5]", r"optimizer\.milestones: \[-1, 5\] is not possible \(steps, 0 or more\)"),
        ("model.voxel_resolution=32.0", r"model\.voxel_resolution: 32\.0 is not possible \(one of 32, 64, 128"),
        ("data.root=2024-02-30", r"--set data\.root=2024-02-30: the value is not valid YAML: day is out of range"),
        ("train.accumulation=7", r"train\.accumulation: 7 does not divide train\.batch_size=24"),
        ("train.seed=99999999999999999999", r"train\.seed: 99999999999999999999 is not possible"),
        ("train.max_views=100000000", r"train\.max_views: 100000000 is not possible \(1 to 1,000\)"),
        ("data.flip_probability=2", r"data\.flip_probability: 2\.0 is not possible \(0 to 1\)"),
        ("steps=4", r"write section\.key=value"),
        ("train.steps", r"write section\.key=value"),
        ("train.steps=[", r"not valid YAML"),
    ],
)
def test_mistake_in_an_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("train.device=cpu", r"train\.cuda_graphs: needs a GPU, but train\.device=cpu"),
        ("split.strategy=auto", r"train\.cuda_graphs: is for one device a rank, but split\.strategy=auto"),
        ("train.recompute=true", r"train\.cuda_graphs: does not go with train\.recompute"),
    ],
)
def test_what_does_not_go_with_cuda_graphs_is_refused(other: str, message: str) -> None:
    load_config(None, [other])
    load_config(None, ["train.cuda_graphs=true"])
    with pytest.raises(ValueError, match=message):
        load_config(None, ["train.cuda_graphs=true", other])


def test_cpu_has_no_tf32_to_switch_off() -> None:
    assert load_config(None, ["train.device=cpu"]).train.tf32
    with pytest.raises(ValueError, match=r"train\.tf32: would be ignored, it only goes with a GPU"):
        load_config(None, ["train.device=cpu", "train.tf32=false"])


def test_towers_are_a_list_or_null_or_what_was_published() -> None:
    assert load_config().model.cross == "default"
    assert load_config(None, ["model.cross=null"]).model.cross is None
    assert load_config(None, ["model.cross=[]"]).model.cross == ()
    config = load_config(None, ["model.cross=[conv3, fc6]"])
    assert config.model.cross == ("conv3", "fc6")
    assert config_from_mapping(to_mapping(config), "here") == config


def test_setting_of_reconstruction_is_an_error_beside_alexnet() -> None:
    changed = {
        "model.preset": "paper",
        "model.voxel_resolution": 64,
        "model.form": "plain",
        "train.min_views": 2,
        "train.max_views": 2,
        "evaluation.views": 1,
        "evaluation.threshold": 0.5,
    }
    with pytest.raises(ValueError) as caught:
        load_config(None, ["model.name=alexnet", *(f"{key}={value}" for key, value in changed.items())])
    for key in changed:
        assert f"{key}: would be ignored, it only goes with the networks of 3D-R2N2" in str(caught.value)
    assert load_config(None, ["model.name=alexnet"]).model.classifies
    assert not load_config().model.classifies


def test_setting_for_built_in_shapes_beside_a_root_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"data\.models_per_category: would be ignored"):
        load_config(None, ["data.root=somewhere", "data.models_per_category=9"])


def test_validation_fraction_beside_a_split_file_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"data\.validation_fraction: would be ignored, it only goes with data\.split=r2n2"
    ):
        load_config(None, ["data.split=ShapeNet.json", "data.validation_fraction=0.2"])


def test_yaml_anchors_are_plain_data(tmp_path: Path) -> None:
    path = write(tmp_path, "train: &t {steps: 7}\ncheckpoint: {every_steps: 3}\n")
    assert load_config(path).train.steps == 7
    path = write(tmp_path, "train: {<<: {steps: 7, seed: 1}, steps: 8}\n")
    assert (load_config(path).train.steps, load_config(path).train.seed) == (8, 1)


def test_all_impossible_values_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size: 0 .*log\.every_steps: 0"):
        load_config(None, ["train.batch_size=0", "log.every_steps=0"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "a mapping of sections .* is needed, this is a list"),
        ("train: 5\n", "train: a mapping of settings is needed, this is a whole number"),
        ("train: {steps: [\n", "not valid YAML"),
        ("train:\n  steps: 1\n  steps: 2\n", "train.steps is given twice|duplicate"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="not a text file"):
        load_config(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_config(tmp_path / "absent.yaml")
