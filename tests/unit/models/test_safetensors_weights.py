"""Weights as safetensors: round trip, and an error for each way a file may not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvd_r2n2.models import create_model, load_weights, save_weights

SETTINGS = {"width": 0.04}


def test_round_trip_is_exact_and_serves_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model("3d-gru-3", seed=1, **SETTINGS)
    save_weights(model, path)
    other = create_model("3d-gru-3", seed=2, form="plain", **SETTINGS)
    load_weights(other, path)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    model = create_model("3d-gru-1", **SETTINGS)
    contents = set()
    for _ in range(5):
        save_weights(model, tmp_path / "model.safetensors")
        contents.add((tmp_path / "model.safetensors").read_bytes())
    assert len(contents) == 1


def test_all_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model("3d-gru-3", **SETTINGS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["encoder.fc7.bias"]
    tensors["decoder.block12.weight"] = torch.zeros(3)
    tensors["decoder.block11.bias"] = torch.zeros(5)
    tensors["decoder.block10.conv.bias"] = tensors["decoder.block10.conv.bias"].to(torch.int32)
    tensors["decoder.block9.conv.bias"][0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(ValueError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert str(path) in message
    assert "missing encoder.fc7.bias (41,)" in message
    assert "unexpected decoder.block12.weight (3,)" in message
    assert "decoder.block11.bias has shape (5,) but (2,) is needed" in message
    assert "decoder.block10.conv.bias is torch.int32 but floats are needed" in message
    assert "decoder.block9.conv.bias holds values that are not finite" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(create_model("3d-gru-3", preset="paper", **SETTINGS), path)
    with pytest.raises(ValueError, match="preset 'paper' \\(this network: 'released-code'\\)"):
        load_weights(create_model("3d-gru-3", **SETTINGS), path)


def test_a_file_without_metadata_and_in_float64_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model("3d-gru-3", seed=1, **SETTINGS)
    save_file({name: tensor.double() for name, tensor in model.state_dict().items()}, path)
    other = create_model("3d-gru-3", seed=2, **SETTINGS)
    load_weights(other, path)
    name = "recurrence.projection.weight"
    assert torch.equal(other.state_dict()[name], model.state_dict()[name])
    assert load_file(path)[name].dtype == torch.float64


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_malformed_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(create_model("3d-gru-3", **SETTINGS), path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_weights(create_model("3d-gru-3", **SETTINGS), tmp_path / "model.safetensors")
