"""Every rewritten form equals the form written as the paper reads: outputs and every gradient, in float64."""

import pytest
import torch

from hvd_r2n2.common.gradient_parts import inputs_later, weights_later
from hvd_r2n2.models import REWRITES, create_model, voxel_cross_entropy
from hvd_r2n2.models.layers import SameConv3d, add_unpooled, channels_last, convolve_unpooled, unpool
from hvd_r2n2.models.options import ReconstructionOptions

TOLERANCE = 1e-10
FIVE = ("3d-lstm-1", "3d-gru-1", "3d-lstm-3", "3d-gru-3", "res3d-gru-3")


def outputs_and_gradients(
    name: str, form: str, num_views: int, **settings: object
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = create_model(name, form=form, **settings).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases all alike would hide some that are swapped
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
    images = torch.rand(num_views, 2, 3, 127, 127, dtype=torch.float64, generator=generator)
    images.requires_grad_()
    logits = model(images)
    occupancy = torch.rand(2, *logits.shape[2:], generator=generator) < 0.3
    (1000 * voxel_cross_entropy(logits, occupancy)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert images.grad is not None
    return logits.detach(), gradients | {"images": images.grad}


def assert_forms_agree(name: str, num_views: int, form: str = "fast", **settings: object) -> None:
    fast_logits, fast = outputs_and_gradients(name, form, num_views, **settings)
    plain_logits, plain = outputs_and_gradients(name, "plain", num_views, **settings)
    assert (fast_logits - plain_logits).abs().max() < TOLERANCE
    assert fast.keys() == plain.keys()
    for parameter in plain:
        largest = plain[parameter].abs().max()
        assert largest > 1e-6, f"the gradient of {parameter} says nothing"
        difference = (fast[parameter] - plain[parameter]).abs().max()
        assert difference < TOLERANCE * min(1.0, float(largest)), parameter


@pytest.mark.parametrize("preset", ["released-code", "paper"])
@pytest.mark.parametrize("name", FIVE)
def test_forms_agree(name: str, preset: str) -> None:
    assert_forms_agree(name, num_views=3, width=0.06, preset=preset)


@pytest.mark.parametrize("name", FIVE)
def test_forms_agree_with_towers(name: str) -> None:
    assert_forms_agree(name, num_views=2, width=1 / 16, cross=["encoder.fc7", "decoder.block11"])


@pytest.mark.parametrize("name", ["3d-lstm-3", "res3d-gru-3"])
def test_forms_agree_at_64(name: str) -> None:
    assert_forms_agree(name, num_views=2, width=0.06, voxel_resolution=64)


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("name", ["3d-lstm-3", "res3d-gru-3"])
def test_each_rewrite_alone_agrees(name: str, rewrite: str) -> None:
    assert_forms_agree(name, 2, rewrite, width=0.06)


def test_forms_name_rewrites() -> None:
    assert ReconstructionOptions().rewrites == set(REWRITES)
    assert ReconstructionOptions(form="plain").rewrites == set()
    assert ReconstructionOptions(form="views+gates").rewrites == {"views", "gates"}
    with pytest.raises(ValueError, match=r"unknown form 'viwes': did you mean 'views'"):
        ReconstructionOptions(form="gates+viwes")
    with pytest.raises(ValueError, match=r"unknown form 'fast'"):
        ReconstructionOptions(form="fast+views")


def test_unpool_puts_values_at_even_indices() -> None:
    values = torch.arange(1.0, 9.0).reshape(1, 1, 2, 2, 2)
    expected = torch.zeros(1, 1, 4, 4, 4)
    for x in range(2):
        for y in range(2):
            for z in range(2):
                expected[0, 0, 2 * x, 2 * y, 2 * z] = 1 + 4 * x + 2 * y + z
    assert torch.equal(unpool(values), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_transposed_convolution_is_convolution_of_unpooled(kernel_size: int) -> None:
    torch.manual_seed(0)
    conv = SameConv3d(3, 4, kernel_size).double()
    inputs = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64)
    expected = convolve_unpooled(conv, inputs, ReconstructionOptions(form="plain"))
    for form in ("unpool", "fast"):
        found = convolve_unpooled(conv, inputs, ReconstructionOptions(form=form))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("with_bias", [True, False])
def test_add_unpooled_has_the_right_gradients(with_bias: bool) -> None:
    torch.manual_seed(0)
    large = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    small = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True) if with_bias else None
    expected = large + unpool(small) + (0 if bias is None else bias[:, None, None, None])
    assert torch.allclose(add_unpooled(large, small, bias), expected, rtol=0, atol=1e-15)
    inputs = (large, small) if bias is None else (large, small, bias)
    assert torch.autograd.gradcheck(lambda *tensors: add_unpooled(*tensors).square(), inputs)


def test_the_bias_of_add_unpooled_may_come_later() -> None:
    large, small, bias = (torch.ones(shape, requires_grad=True) for shape in ((1, 3, 2, 2, 2), (1, 3, 1, 1, 1), (3,)))
    outputs = add_unpooled(large, small, bias)
    seed = torch.rand_like(outputs)
    with weights_later([bias]):
        found = torch.autograd.grad(outputs, (large, small, bias), seed, retain_graph=True, allow_unused=True)
    assert [gradient is None for gradient in found] == [False, False, True]
    with inputs_later():
        (to_bias,) = torch.autograd.grad(outputs, (bias,), seed)
    torch.testing.assert_close(to_bias, seed.sum((0, 2, 3, 4)))


@pytest.mark.parametrize("name", ["3d-lstm-3", "res3d-gru-3"])
def test_float32_forms_are_near_and_gradients_contiguous(name: str) -> None:
    """Activations in float32 lie channels last on a CPU; what is reduced over ranks must not."""
    images = torch.rand(2, 2, 3, 127, 127, generator=torch.Generator().manual_seed(0))
    fast, plain = create_model(name, width=0.1), create_model(name, width=0.1, form="plain")
    logits = fast(images)
    torch.testing.assert_close(logits, plain(images), rtol=0, atol=1e-4 * logits.abs().max().item())
    logits.square().sum().backward()
    for parameter_name, parameter in fast.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.is_contiguous(), parameter_name


@pytest.mark.parametrize("sides", [(5, 4), (3, 5, 4)])
@pytest.mark.parametrize("num_samples", [1, 2])
def test_channels_last_is_seen_as_such_also_of_one_sample(num_samples: int, sides: tuple[int, ...]) -> None:
    for inputs in (
        torch.randn(num_samples, 6, *sides),
        torch.randn(num_samples, *sides, 6).movedim(-1, 1),
        torch.randn(num_samples, 1, *sides, 6).movedim(-1, 2).flatten(0, 1),  # whose first stride may be any
    ):
        inputs.requires_grad_()
        found = channels_last(inputs)
        layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        assert torch.equal(found, inputs)
        assert found.stride() == torch.empty(inputs.shape).to(memory_format=layout).stride()
        (gradient,) = torch.autograd.grad((found * found.detach()).sum(), inputs)
        assert torch.equal(gradient, inputs)
