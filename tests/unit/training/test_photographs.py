import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from hvd_r2n2.training.photographs import OBJECT_SHARE, PICTURE_SIDE, _joined_to_border, read_photograph


def _box(picture: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(picture[..., 3])
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def _disc(background: tuple[int, ...] = (255, 255, 255), mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (400, 300), background)
    ImageDraw.Draw(image).ellipse((30, 40, 129, 139), fill=(180, 20, 20, 255)[: len(background)])
    return image


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_training_picture_is_used_as_it_is(shared_data: Path) -> None:
    for path in sorted((shared_data / "r2n2_samples").glob("ShapeNetRendering/*/*/rendering/0[0-3].png")):
        assert (read_photograph(path) == np.asarray(Image.open(path))).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_plain_background_becomes_transparent_and_the_object_is_centred(tmp_path: Path, suffix: str) -> None:
    picture = read_photograph(_saved(_disc(), tmp_path / f"disc{suffix}"))
    assert picture.shape == (PICTURE_SIDE, PICTURE_SIDE, 4)
    assert picture.dtype == np.uint8
    left, top, right, bottom = _box(picture)
    longest = OBJECT_SHARE * PICTURE_SIDE
    assert (right - left, bottom - top) == pytest.approx((longest, longest), abs=2)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((PICTURE_SIDE / 2,) * 2, abs=1.5)
    assert (picture[..., 3] > 0).sum() == pytest.approx(np.pi / 4 * longest**2, rel=0.04)
    assert picture[PICTURE_SIDE // 2, PICTURE_SIDE // 2].tolist() == pytest.approx([180, 20, 20, 255], abs=4)


def test_transparency_is_kept_and_the_object_is_centred(tmp_path: Path) -> None:
    cut_out = read_photograph(_saved(_disc(background=(0, 0, 0, 0), mode="RGBA"), tmp_path / "disc.png"))
    before_paper = read_photograph(_saved(_disc(), tmp_path / "paper.png"))
    assert np.abs(cut_out[..., 3].astype(int) - before_paper[..., 3]).mean() < 1


def test_a_coloured_and_noisy_background_is_recognised(tmp_path: Path) -> None:
    image = np.asarray(_disc(background=(60, 140, 90))).astype(int)
    noisy = (image + np.random.default_rng(0).integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)
    picture = read_photograph(_saved(Image.fromarray(noisy), tmp_path / "noisy.png"))
    plain = read_photograph(_saved(_disc(), tmp_path / "plain.png"))
    assert np.mean((picture[..., 3] > 0) != (plain[..., 3] > 0)) < 0.01


def test_an_object_may_touch_the_border(tmp_path: Path) -> None:
    image = Image.new("RGB", (200, 200), (250, 250, 250))
    ImageDraw.Draw(image).rectangle((60, 50, 139, 199), fill=(20, 20, 60))  # 80 × 150, standing on the lower edge
    left, top, right, bottom = _box(read_photograph(_saved(image, tmp_path / "cut.png")))
    longest = OBJECT_SHARE * PICTURE_SIDE
    assert (right - left, bottom - top) == pytest.approx((longest * 80 / 150, longest), abs=2)


def test_what_the_object_encloses_stays_opaque(tmp_path: Path) -> None:
    image = _disc()
    ImageDraw.Draw(image).ellipse((60, 70, 99, 109), fill=(255, 255, 255))
    picture = read_photograph(_saved(image, tmp_path / "ring.png"))
    assert picture[PICTURE_SIDE // 2, PICTURE_SIDE // 2].tolist() == [255, 255, 255, 255]


def test_a_small_training_sized_picture_keeps_its_framing(tmp_path: Path) -> None:
    image = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), (255, 255, 255))
    ImageDraw.Draw(image).rectangle((10, 20, 39, 59), fill=(0, 0, 0))
    assert _box(read_photograph(_saved(image, tmp_path / "framed.png"))) == (10, 20, 40, 60)


def test_the_camera_s_orientation_is_heeded(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 200), (255, 255, 255))
    ImageDraw.Draw(image).rectangle((50, 90, 249, 109), fill=(0, 0, 0))  # lies, but the camera was turned
    exif = Image.Exif()
    exif[0x0112] = 6
    left, top, right, bottom = _box(read_photograph(_saved(image, tmp_path / "turned.jpg", exif=exif, quality=95)))
    assert bottom - top > 5 * (right - left)


def test_sixteen_bits_of_grey_are_read(tmp_path: Path) -> None:
    grey = np.full((200, 200), 65535, dtype=np.uint16)
    grey[50:150, 50:150] = 0x4000
    picture = read_photograph(_saved(Image.fromarray(grey), tmp_path / "grey.png"))
    assert picture[PICTURE_SIDE // 2, PICTURE_SIDE // 2].tolist() == [0x40, 0x40, 0x40, 255]


def test_palettes_with_transparency_are_read(tmp_path: Path) -> None:
    image = _disc().quantize(4)
    white = image.getpixel((0, 0))
    picture = read_photograph(_saved(image, tmp_path / "palette.gif", transparency=white))
    left, top, right, bottom = _box(picture)
    assert (right - left, bottom - top) == pytest.approx((OBJECT_SHARE * PICTURE_SIDE,) * 2, abs=2)


def test_joined_to_the_border_equals_connected_components() -> None:
    random = np.random.default_rng(3)
    for density in (0.4, 0.55, 0.6, 0.65, 0.8):
        mask = random.random((40, 55)) < density
        labels, _ = ndimage.label(mask)
        edges = np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))
        assert (_joined_to_border(mask) == (np.isin(labels, edges) & mask)).all()
    spiral = np.zeros((21, 21), dtype=bool)
    for ring in range(0, 10, 2):
        spiral[ring, max(ring - 2, 0) : 21 - ring] = spiral[ring : 21 - ring, 20 - ring] = True
        spiral[20 - ring, ring : 21 - ring] = spiral[ring + 2 : 21 - ring, ring] = True
    labels, _ = ndimage.label(spiral)
    assert (_joined_to_border(spiral) == (labels == labels[0, 0])).all()


def _png_of_size(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _cluttered() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no picture at all"), "is not a picture that can be read: give PNG, JPEG"),
    "no bytes": (lambda path: path.write_bytes(b""), "is empty"),
    "half a PNG": (lambda path: path.write_bytes(_encoded(_cluttered(), "PNG")[:9000]), "damaged or cut short"),
    "half a JPEG": (lambda path: path.write_bytes(_encoded(_cluttered(), "JPEG")[:5000]), "damaged or cut short"),
    "a header alone": (lambda path: path.write_bytes(_encoded(_disc(), "PNG")[:20]), "give PNG|damaged or cut short"),
    "a folder": (lambda path: path.mkdir(), "is not a file: name pictures one by one"),
    "12,000 × 12,000": (lambda path: _png_of_size(path, 12_000, 12_000), "144000000 pixels, the limit is 64000000"),
    "60,000 × 60,000": (lambda path: _png_of_size(path, 60_000, 60_000), "too many pixels, the limit is 64000000"),
    "transparent": (lambda path: Image.new("RGBA", (90, 60)).save(path, "PNG"), "is wholly transparent"),
    "one colour": (lambda path: Image.new("RGB", (90, 60)).save(path, "PNG"), "nothing but a plain background"),
    "one pixel": (lambda path: Image.new("RGB", (1, 1)).save(path, "PNG"), "nothing but a plain background"),
    "clutter": (lambda path: _cluttered().save(path, "PNG"), "its background is not plain: .* transparent background"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("error")
def test_a_picture_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_photograph(path)
    assert str(path) in str(caught.value)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        read_photograph(tmp_path / "none.png")
