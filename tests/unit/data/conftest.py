"""A small data set in the ShapeNet layout, for the tests of this folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvd_r2n2.data.binvox import write_binvox

LayoutMaker = Callable[..., Path]


def _picture(generator: np.random.Generator) -> np.ndarray:
    """Random RGBA with a transparent frame and transparent holes whose colours are not zero."""
    picture = generator.integers(0, 256, (137, 137, 4), dtype=np.uint8)
    top, left = generator.integers(5, 60, 2)
    height, width = generator.integers(1, 70, 2)
    inside = np.zeros((137, 137), dtype=bool)
    inside[top : top + height, left : left + width] = True
    picture[~inside, 3] = 0
    picture[generator.random((137, 137)) < 0.3, 3] = 0
    return picture


@pytest.fixture
def make_layout(tmp_path: Path) -> LayoutMaker:
    """Write models: make_layout({"03001627": ["a", "b"]}, num_views=2, resolution=32) -> root."""

    def make(models: Mapping[str, Sequence[str]], num_views: int = 2, resolution: int = 32, name: str = "root") -> Path:
        root = tmp_path / name
        for number, (synset, model_id) in enumerate((synset, one) for synset, ids in models.items() for one in ids):
            generator = np.random.default_rng(number)
            rendering = root / "ShapeNetRendering" / synset / model_id / "rendering"
            voxels = root / f"ShapeNetVox{resolution}" / synset / model_id
            rendering.mkdir(parents=True, exist_ok=True)
            voxels.mkdir(parents=True)
            for view in range(num_views):
                Image.fromarray(_picture(generator)).save(rendering / f"{view:02d}.png")
            (rendering / "rendering_metadata.txt").write_text("12.5 27.1 0 0.8 25\n" * num_views)
            write_binvox(voxels / "model.binvox", generator.random((resolution,) * 3) < 0.3)
        return root

    return make
