"""Three networks that others published scaling figures of: bytes and arithmetic of every layer, in forward order.

VGG-16 (Simonyan and Zisserman 2014, table 1, D), ResNet-101 (He et al. 2015, table 1, stride in the first 1×1
convolution of a block) and Inception V3 (Szegedy et al. 2015, without the auxiliary classifier).
Legend: k kernel, s side of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hvd_r2n2.scaling.overlap import Layer

_FLOAT_BYTES = 4
_FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Piece:
    """A convolution or a matrix product with what belongs to it."""

    name: str
    parameters: tuple[int, ...]
    """Numbers in each of its tensors."""
    products: int
    """Multiplications for one picture, forward."""


def layers_of(pieces: Sequence[Piece], step_s: float) -> tuple[Layer, ...]:
    """Return layers that share the time of a step in proportion to their arithmetic, a third of it forward.

    That backward has twice the arithmetic of forward is exact but for the first layer; that all layers run at the same
    rate is an assumption.
    """
    total = sum(piece.products for piece in pieces)
    return tuple(
        Layer(
            piece.name,
            step_s * _FORWARD_SHARE * piece.products / total,
            step_s * (1 - _FORWARD_SHARE) * piece.products / total,
            tuple(_FLOAT_BYTES * count for count in reversed(piece.parameters)),
        )
        for piece in pieces
    )


def vgg_16() -> tuple[Piece, ...]:
    """Return VGG-16 for pictures of 224×224."""
    pieces, channels, side = [], 3, 224
    for block, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        for number in range(1, count + 1):
            weights = 9 * channels * width
            pieces.append(Piece(f"conv{block}_{number}", (weights, width), weights * side**2))
            channels = width
        side //= 2
    features = channels * side**2
    for number, width in enumerate((4096, 4096, 1000), start=6):
        pieces.append(Piece(f"fc{number}", (features * width, width), features * width))
        features = width
    return tuple(pieces)


def resnet_101() -> tuple[Piece, ...]:
    """Return ResNet-101 for pictures of 224×224."""
    pieces, channels, side = [_conv("conv1", 3, 64, 7, 7, 112)], 64, 56
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (23, 256), (3, 512)), start=2):
        side = side if stage == 2 else side // 2
        for number in range(1, count + 1):
            name = f"conv{stage}_{number}"
            pieces.append(_conv(f"{name}.a", channels, width, 1, 1, side))
            pieces.append(_conv(f"{name}.b", width, width, 3, 3, side))
            pieces.append(_conv(f"{name}.c", width, 4 * width, 1, 1, side))
            if number == 1:
                pieces.append(_conv(f"{name}.shortcut", channels, 4 * width, 1, 1, side))
            channels = 4 * width
    return (*pieces, Piece("fc", (channels * 1000, 1000), channels * 1000))


def inception_v3() -> tuple[Piece, ...]:
    """Return Inception V3 for pictures of 299×299."""
    stem = (("1a", 3, 32, 3, 149), ("2a", 32, 32, 3, 147), ("2b", 32, 64, 3, 147), ("3b", 64, 80, 1, 73))
    pieces = [_conv(name, inside, out, k, k, s) for name, inside, out, k, s in (*stem, ("4a", 80, 192, 3, 71))]
    for name, channels, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        branches = ("64x1x1", "48x1x1 64x5x5", "64x1x1 96x3x3 96x3x3", f"{pool}x1x1")
        pieces += _branches(name, channels, branches, 35)
    pieces.append(_conv("6a.0", 288, 384, 3, 3, 17))
    pieces += [*_chain("6a.1", 288, "64x1x1 96x3x3", 35), _conv("6a.1.2", 96, 96, 3, 3, 17)]
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        long = f"{c}x1x1 {c}x7x1 {c}x1x7 {c}x7x1 192x1x7"
        pieces += _branches(name, 768, ("192x1x1", f"{c}x1x1 {c}x1x7 192x7x1", long, "192x1x1"), 17)
    pieces += [*_chain("7a.0", 768, "192x1x1", 17), _conv("7a.0.1", 192, 320, 3, 3, 8)]
    pieces += [*_chain("7a.1", 768, "192x1x1 192x1x7 192x7x1", 17), _conv("7a.1.3", 192, 192, 3, 3, 8)]
    for name, channels in (("7b", 1280), ("7c", 2048)):
        pieces += _branches(name, channels, ("320x1x1", "384x1x1", "448x1x1 384x3x3", "192x1x1"), 8)
        # Two of the branches end in a pair of convolutions side by side.
        for pair in (f"{name}.pair0", f"{name}.pair1"):
            pieces += [_conv(f"{pair}.0", 384, 384, 1, 3, 8), _conv(f"{pair}.1", 384, 384, 3, 1, 8)]
    return (*pieces, Piece("fc", (2048 * 1000, 1000), 2048 * 1000))


def _conv(name: str, channels: int, width: int, height_k: int, width_k: int, side: int) -> Piece:
    """Give a convolution without bias, with batch normalisation."""
    weights = channels * width * height_k * width_k
    return Piece(name, (weights, width, width), weights * side**2)


def _branches(name: str, channels: int, branches: Sequence[str], side: int) -> Iterator[Piece]:
    for number, branch in enumerate(branches):
        yield from _chain(f"{name}.{number}", channels, branch, side)


def _chain(name: str, channels: int, shapes: str, side: int) -> Iterator[Piece]:
    """Give convolutions one after another, written as WIDTHxROWSxCOLUMNS."""
    for number, shape in enumerate(shapes.split()):
        width, rows, columns = map(int, shape.split("x"))
        yield _conv(f"{name}.{number}", channels, width, rows, columns, side)
        channels = width
