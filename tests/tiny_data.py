"""A small data set in the ShapeNet layout: boxes and their pictures, made in a second, without ray casting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hvd_r2n2.data.binvox import write_binvox

SYNSETS = ("02691156", "02958343", "03001627")


def write_tiny_data(root: Path, models_per_category: int = 6, seed: int = 0) -> Path:
    """Write box shapes whose pictures show a rectangle of the box's size and colour; return `root`."""
    random = np.random.default_rng(seed)
    for synset in SYNSETS:
        for number in range(models_per_category):
            _write_model(root, synset, f"box-{number:03d}", random)
    return root


def _write_model(root: Path, synset: str, model: str, random: np.random.Generator) -> None:
    half = random.integers(3, 16, size=3)
    occupancy_XYZ = np.zeros((32, 32, 32), dtype=bool)
    occupancy_XYZ[tuple(slice(16 - h, 16 + h) for h in half)] = True
    folder = root / "ShapeNetVox32" / synset / model
    folder.mkdir(parents=True)
    write_binvox(folder / "model.binvox", occupancy_XYZ)
    folder = root / "ShapeNetRendering" / synset / model / "rendering"
    folder.mkdir(parents=True)
    lines = []
    for view in range(24):
        picture = Image.new("RGBA", (137, 137))
        width, height = 4 * (half[0] if view % 2 else half[2]), 4 * half[1]
        colour = (*(int(c) for c in random.integers(0, 220, size=3)), 255)
        ImageDraw.Draw(picture).rectangle((68 - width, 68 - height, 68 + width, 68 + height), fill=colour)
        picture.save(folder / f"{view:02d}.png", compress_level=1)
        lines.append(f"{view * 15} 27 0 0.8 25\n")
    (folder / "rendering_metadata.txt").write_text("".join(lines))
    (folder / "renderings.txt").write_text("".join(f"{view:02d}.png\n" for view in range(24)))
