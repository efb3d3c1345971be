"""Picture files of strangers: any size and kind of colour, read as RGBA, or refused with a message that helps."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow knows more, among them some that start programs (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
"""Largest picture that is decoded; the header tells the size before memory is taken."""
_MAX_FILE_BYTES = 1 << 28


def read_picture_file(path: Path, hint: str = "make it smaller") -> Image.Image:
    """Read a file as RGBA, upright, its size checked before it is decoded; `hint` helps where it is too large.

    Raises:
        ValueError: not a picture, damaged or too large; the message names the file and what to do.
        OSError: the file is missing or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"picture {path} does not exist")
    if not path.is_file():
        raise ValueError(f"picture {path} is not a file: name pictures one by one, e.g. {path}/*.png")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, the limit is {_MAX_FILE_BYTES:,}: {hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            # From memory: of an open file, a chunk that claims gigabytes would be given as many before it is read.
            image = Image.open(io.BytesIO(path.read_bytes()), formats=_FORMATS)
        with image:
            num_pixels = image.width * image.height
            decoded = _to_rgba(image) if num_pixels <= MAX_PIXELS else None
    except (PermissionError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        what = "is empty (0 bytes)" if path.stat().st_size == 0 else "is not a picture that can be read"
        raise ValueError(f"{path} {what}: give PNG, JPEG, WebP, BMP, TIFF or GIF") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has far too many pixels, the limit is {MAX_PIXELS}: {hint}") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path} is damaged or cut short ({error}): save or copy it again") from error
    if decoded is None:
        raise ValueError(f"{path} has {num_pixels} pixels, the limit is {MAX_PIXELS}: {hint}")
    return decoded


def _to_rgba(image: Image.Image) -> Image.Image:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey
        upright = Image.fromarray((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8))
    return upright.convert("RGBA")
