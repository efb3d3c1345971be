"""Loading the released code's weights, against the network computed in NumPy straight from the file's arrays.

The computation below follows Theano: true convolutions (kernels flipped), grids as depth, channel, height,
width. It shares nothing with the package.
"""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hvd_r2n2.models import create_model, load_original_weights, save_original_weights

Array = NDArray[np.float64]

ENCODER = {
    "conv1a": (96, 3, 7, 7),
    "conv1b": (96, 96, 3, 3),
    "conv2a": (128, 96, 3, 3),
    "conv2b": (128, 128, 3, 3),
    "conv2c": (128, 96, 1, 1),
    "conv3a": (256, 128, 3, 3),
    "conv3b": (256, 256, 3, 3),
    "conv3c": (256, 128, 1, 1),
    "conv4a": (256, 256, 3, 3),
    "conv4b": (256, 256, 3, 3),
    "conv5a": (256, 256, 3, 3),
    "conv5b": (256, 256, 3, 3),
    "conv5c": (256, 256, 1, 1),
    "conv6a": (256, 256, 3, 3),
    "conv6b": (256, 256, 3, 3),
}
DECODER = {  # out, depth, in, height, width
    "conv7a": (128, 3, 128, 3, 3),
    "conv7b": (128, 3, 128, 3, 3),
    "conv8a": (128, 3, 128, 3, 3),
    "conv8b": (128, 3, 128, 3, 3),
    "conv9a": (64, 3, 128, 3, 3),
    "conv9b": (64, 3, 64, 3, 3),
    "conv9c": (64, 1, 128, 1, 1),
    "conv10a": (32, 3, 64, 3, 3),
    "conv10b": (32, 3, 32, 3, 3),
    "conv10c": (32, 3, 32, 3, 3),
    "conv11": (2, 3, 32, 3, 3),
}


def file_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in ENCODER.items():
        shapes |= {f"{layer}.W": shape, f"{layer}.b": (shape[0],)}
    shapes |= {"fc7.W": (2304, 1024), "fc7.b": (1024,)}
    for gate in ("update", "reset", "candidate"):
        shapes |= {f"{gate}.Wh": (128, 3, 128, 3, 3), f"{gate}.Wx": (1024, 8192), f"{gate}.b": (128,)}
    for layer, shape in DECODER.items():
        shapes |= {f"{layer}.W": shape, f"{layer}.b": (shape[0],)}
    return shapes


def save_object_array(path: Path, arrays: list[NDArray[np.float32]]) -> None:
    objects = np.empty(len(arrays), dtype=object)
    for index, array in enumerate(arrays):
        objects[index] = array
    np.save(path, objects, allow_pickle=True)


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    made = {}
    for name, shape in file_shapes().items():
        fan_in = shape[0] if name.endswith("Wx") or name == "fc7.W" else np.prod(shape[1:])
        scale = 0.2 if len(shape) == 1 else np.sqrt(2 / fan_in)
        made[name] = (scale * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32)
    assert len(made) == 63
    return made


@pytest.fixture(scope="module")
def weights_file(arrays: dict[str, NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "weights.npy"
    save_object_array(path, list(arrays.values()))
    return path


def true_convolution(inputs: Array, kernel: Array) -> Array:
    """Convolve (in, *sides) with (out, in, *kernel sides): out[p] = Σ_q kernel[q] · inputs[p + centre - q]."""
    kernel_sides, sides = kernel.shape[2:], inputs.shape[1:]
    padded = np.pad(inputs, [(0, 0), *((side // 2, side // 2) for side in kernel_sides)])
    outputs = np.zeros((kernel.shape[0], int(np.prod(sides))))
    for q in product(*map(range, kernel_sides)):
        # In padded coordinates p + 2 * centre - q.
        starts = [kernel_side - 1 - offset for kernel_side, offset in zip(kernel_sides, q, strict=True)]
        window = padded[(slice(None), *(slice(s, s + side) for s, side in zip(starts, sides, strict=True)))]
        outputs += kernel[(slice(None), slice(None), *q)] @ window.reshape(inputs.shape[0], -1)
    return outputs.reshape(-1, *sides)


def leaky(x: Array) -> Array:
    return np.maximum(x, 0.01 * x)


def pooled(x: Array) -> Array:
    side = x.shape[1]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    half = (side + 2) // 2
    cut = padded[:, : 2 * half, : 2 * half].reshape(x.shape[0], half, 2, half, 2)
    return np.asarray(cut.max(axis=(2, 4)))


def unpooled(x: Array) -> Array:
    """Insert zeros in (depth, channel, height, width)."""
    depth, channels, height, width = x.shape
    out = np.zeros((2 * depth, channels, 2 * height, 2 * width))
    out[::2, :, ::2, ::2] = x
    return out


class TheanoNetwork:
    """The forward pass of one sample, straight from the file's arrays."""

    def __init__(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        self.weights = {name: array.astype(np.float64) for name, array in arrays.items()}

    def conv2d(self, x: Array, layer: str) -> Array:
        return true_convolution(x, self.weights[f"{layer}.W"]) + self.weights[f"{layer}.b"][:, None, None]

    def conv3d(self, x_DCHW: Array, weight: str, bias: str) -> Array:
        kernel = self.weights[weight].transpose(0, 2, 1, 3, 4)
        out_CDHW = true_convolution(x_DCHW.transpose(1, 0, 2, 3), kernel) + self.weights[bias][:, None, None, None]
        return out_CDHW.transpose(1, 0, 2, 3)

    def layer(self, x_DCHW: Array, layer: str) -> Array:
        return self.conv3d(x_DCHW, f"{layer}.W", f"{layer}.b")

    def features(self, x: Array) -> Array:
        x = pooled(leaky(self.conv2d(leaky(self.conv2d(x, "conv1a")), "conv1b")))
        for block in (2, 3):
            branch = leaky(self.conv2d(leaky(self.conv2d(x, f"conv{block}a")), f"conv{block}b"))
            x = pooled(self.conv2d(x, f"conv{block}c") + branch)
        x = pooled(leaky(self.conv2d(leaky(self.conv2d(x, "conv4a")), "conv4b")))
        x = pooled(self.conv2d(x, "conv5c") + leaky(self.conv2d(leaky(self.conv2d(x, "conv5a")), "conv5b")))
        x = pooled(x + leaky(self.conv2d(leaky(self.conv2d(x, "conv6a")), "conv6b")))
        return leaky(x.reshape(-1) @ self.weights["fc7.W"] + self.weights["fc7.b"])

    def gate(self, h_DCHW: Array, features: Array, gate: str) -> Array:
        projected = (features @ self.weights[f"{gate}.Wx"]).reshape(4, 128, 4, 4)
        return self.conv3d(h_DCHW, f"{gate}.Wh", f"{gate}.b") + projected

    def logits(self, images: Array) -> Array:
        """Give (depth, 2, height, width)."""
        h = np.zeros((4, 128, 4, 4))
        for image in images:
            features = self.features(image)
            update = 1 / (1 + np.exp(-self.gate(h, features, "update")))
            reset = 1 / (1 + np.exp(-self.gate(h, features, "reset")))
            h = update * h + (1 - update) * np.tanh(self.gate(reset * h, features, "candidate"))
        x = h
        for block in (7, 8):
            up = unpooled(x)
            x = up + leaky(self.layer(leaky(self.layer(up, f"conv{block}a")), f"conv{block}b"))
        up = unpooled(x)
        x = self.layer(up, "conv9c") + leaky(self.layer(leaky(self.layer(up, "conv9a")), "conv9b"))
        a = leaky(self.layer(x, "conv10a"))
        return self.layer(self.layer(a, "conv10c") + leaky(self.layer(a, "conv10b")), "conv11")


@pytest.mark.parametrize("shapes", [((2, 7, 6), (3, 2, 3, 3)), ((2, 4, 5, 6), (3, 2, 3, 3, 3))])
def test_the_reference_convolution_is_scipys(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    inputs, kernel = rng.standard_normal(shapes[0]), rng.standard_normal(shapes[1])
    expected = [
        sum(signal.convolve(x, k, mode="same") for x, k in zip(inputs, kernels, strict=True)) for kernels in kernel
    ]
    np.testing.assert_allclose(true_convolution(inputs, kernel), expected, atol=1e-12)


def test_loaded_network_is_theanos(arrays: dict[str, NDArray[np.float32]], weights_file: Path) -> None:
    images = np.random.default_rng(1).random((2, 3, 127, 127))
    expected_DCHW = TheanoNetwork(arrays).logits(images)
    model = create_model("res3d-gru-3").double()
    load_original_weights(model, weights_file)
    with torch.no_grad():
        logits = model(torch.from_numpy(images)[:, None])[0].numpy()
    assert np.abs(expected_DCHW).max() > 0.1
    np.testing.assert_allclose(logits, expected_DCHW.transpose(1, 0, 2, 3), rtol=0, atol=1e-10)


def test_saving_writes_the_files_arrays_again(
    arrays: dict[str, NDArray[np.float32]], weights_file: Path, tmp_path: Path
) -> None:
    model = create_model("res3d-gru-3", form="plain")
    load_original_weights(model, weights_file)
    save_original_weights(model, tmp_path / "again.npy")
    again = np.load(tmp_path / "again.npy", allow_pickle=True)
    assert len(again) == 63
    for (name, array), found in zip(arrays.items(), again, strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, array), name


Change = Callable[[NDArray[np.float32]], object]


@pytest.mark.parametrize(
    ("number", "label", "change", "message"),
    [
        (1, "conv1a.W", lambda a: a[:, :, :5, :5], r"shape \(96, 3, 5, 5\) but \(96, 3, 7, 7\) is needed"),
        (5, "conv2a.W", lambda a: a[:, :-1], r"shape \(128, 95, 3, 3\) but \(128, 96, 3, 3\) is needed"),
        (4, "conv1b.b", lambda a: a.astype(np.int32), "dtype 'i4' but a float"),
        (4, "conv1b.b", lambda a: a.astype(np.complex64), "dtype 'c8' but a float"),
        (4, "conv1b.b", lambda a: a.astype(object), "dtype 'O8' but a float"),
        (4, "conv1b.b", lambda a: [float(x) for x in a], "list where an array of floats is needed"),
        (6, "conv2a.b", lambda a: np.where(a == a.max(), np.nan, a), "not finite"),
        (6, "conv2a.b", lambda a: a.astype(np.float64) * 1e300, "not finite in torch.float32"),
        (3, "conv1b.W", lambda a: np.where(a == a.max(), np.inf, a), "not finite"),
    ],
)
def test_a_wrong_array_is_named_and_nothing_is_loaded(
    arrays: dict[str, NDArray[np.float32]], tmp_path: Path, number: int, label: str, change: Change, message: str
) -> None:
    # Arrays after the wrong one are not reached: small ones keep the file small.
    found: list[NDArray[np.float32]] = list(arrays.values())[:8] + [np.zeros(1, np.float32)] * 55
    found[number - 1] = change(found[number - 1])
    path = tmp_path / "weights.npy"
    save_object_array(path, found)
    model = create_model("res3d-gru-3")
    before = model.state_dict()["encoder.block1.conv_a.weight"].clone()
    with pytest.raises(ValueError, match=rf"weights\.npy: array {number} \({re.escape(label)}\): .*{message}"):
        load_original_weights(model, path)
    assert torch.equal(model.state_dict()["encoder.block1.conv_a.weight"], before)


@pytest.mark.parametrize("count", [0, 62, 64])
def test_a_wrong_number_of_arrays_is_named(tmp_path: Path, count: int) -> None:
    path = tmp_path / "weights.npy"
    save_object_array(path, [np.zeros(1, np.float32)] * count)
    with pytest.raises(ValueError, match=rf"weights\.npy: {count} arrays but 63 are needed"):
        load_original_weights(create_model("res3d-gru-3"), path)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "3d-gru-3"},
        {"name": "res3d-gru-3", "width": 0.5},
        {"name": "res3d-gru-3", "voxel_resolution": 64},
        {"name": "res3d-gru-3", "preset": "paper"},
        {"name": "res3d-gru-3", "cross": ["encoder.fc7"]},
        {"name": "alexnet", "num_classes": 2},
    ],
)
def test_another_network_is_refused_with_the_right_one_named(tmp_path: Path, settings: dict[str, object]) -> None:
    model = create_model(**settings)
    with pytest.raises(ValueError, match="are for res3d-gru-3, width 1.0, .*; this network is"):
        load_original_weights(model, tmp_path / "weights.npy")
    with pytest.raises(ValueError, match="are for res3d-gru-3"):
        save_original_weights(model, tmp_path / "weights.npy")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_original_weights(create_model("res3d-gru-3"), tmp_path / "weights.npy")
