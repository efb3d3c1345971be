"""A small folder of labelled pictures: shapes of one colour on another, of many sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("bars", "discs", "squares")


def write_labelled_data(root: Path, pictures_per_class: int = 10, seed: int = 0) -> Path:
    """Write root/CLASS/NN.png, opaque and transparent ones; return `root`."""
    random = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(pictures_per_class):
            width, height = (int(side) for side in random.integers(60, 140, size=2))
            ground = (0, 0, 0, 0) if number % 2 else (*(int(c) for c in random.integers(120, 256, size=3)), 255)
            picture = Image.new("RGBA", (width, height), ground)
            colour = (*(int(c) for c in random.integers(0, 120, size=3)), 255)
            x, y, half = width // 2, height // 2, int(random.integers(12, 25))
            draw = ImageDraw.Draw(picture)
            if name == "discs":
                draw.ellipse((x - half, y - half, x + half, y + half), fill=colour)
            else:
                draw.rectangle((x - half, y - (half if name == "squares" else 4), x + half, y + half), fill=colour)
            picture.save(root / name / f"{number:02d}.png", compress_level=1)
    return root
