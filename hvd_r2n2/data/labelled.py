"""Labelled pictures: each sample is one picture, its target the number of its class."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from hvd_r2n2.data.augment import Framing
from hvd_r2n2.data.categories import CATEGORIES, find_category
from hvd_r2n2.data.dataset import Dataset
from hvd_r2n2.data.samples import Samples

# Krizhevsky et al. 2012, section 4.1, with the 227 pixels that the sizes of their layers need, not their 224.
PICTURE_FRAMING = Framing(picture_side=256, crop_side=227, num_offsets=256 - 227 + 1)


class LabelledPictures(Samples):
    """Pictures and the numbers of their classes."""

    noun = "pictures"
    num_views = 1
    framing = PICTURE_FRAMING
    classes: tuple[str, ...]
    """Their names, in the order of their numbers."""
    labels_N: npt.NDArray[np.int64]
    """The number of each sample's class."""

    def images(self, index: int, views: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return a sample's only picture, its middle square scaled: 1×256×256×4 uint8 RGBA."""
        self._check_index(index)
        assert tuple(views) == (0,)
        return _middle_square(self._picture(index), self.framing.picture_side)[None]

    def target(self, index: int) -> npt.NDArray[np.int64]:
        """Return the number of a sample's class, without an axis."""
        self._check_index(index)
        return np.asarray(self.labels_N[index])

    def category(self, index: int) -> str:
        """Return the name of a sample's class."""
        return self.classes[int(self.labels_N[index])]

    @abstractmethod
    def _picture(self, index: int) -> Image.Image:
        """Return the picture of a sample as it is kept, RGBA."""


class LabelledRenderings(LabelledPictures):
    """Every rendering of every model of a data set, its class the model's category; the parts are the data set's."""

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        """Take all pictures of a data set whose categories are among `classes` (names)."""
        self._dataset = dataset
        self.classes = tuple(classes)
        self.split_name = dataset.split_name
        self.refs = [f"{ref}/{view:02d}" for ref in dataset.refs for view in range(dataset.num_views)]
        numbers = {find_category(name).synset: number for number, name in enumerate(classes)}
        labels = [numbers[ref.synset] for ref in dataset.refs]
        self.labels_N = np.repeat(np.array(labels, dtype=np.int64), dataset.num_views)
        self.train, self.validation, self.test = map(
            self._pictures_of, (dataset.train, dataset.validation, dataset.test)
        )
        named = "\n".join((*self.classes, dataset.content_digest))
        self.content_digest = hashlib.sha256(named.encode()).hexdigest()

    def _pictures_of(self, models: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        num_views = self._dataset.num_views
        return (models[:, None] * num_views + np.arange(num_views)).reshape(-1)

    def _picture(self, index: int) -> Image.Image:
        model, view = divmod(index, self._dataset.num_views)
        return Image.fromarray(self._dataset.images(model, [view])[0])


def category_names(chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the categories with these names or synset ids (None: all), in the order of the ids.

    Raises:
        ValueError: a category that there is not.
    """
    synsets = set(CATEGORIES) if chosen is None else {find_category(name).synset for name in chosen}
    return tuple(category.name for synset, category in CATEGORIES.items() if synset in synsets)


def _middle_square(picture: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Scale a picture so that its shorter side becomes `side`, and take the middle: side×side×4."""
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    # Pillow weighs colours by their opacity, so that what cannot be seen does not bleed into the edges.
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=box))
