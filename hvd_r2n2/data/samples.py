"""What a loader reads: samples, each some pictures and a target, in three parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hvd_r2n2.data.augment import Framing
from hvd_r2n2.data.packed import Rectangles


class DamagedSampleError(ValueError):
    """A sample is not what it was when the data were checked; names the file and what to do."""


class Samples(ABC):
    """The samples of a data set; reading is thread-safe."""

    noun: str
    """What a sample is, in the plural."""
    refs: Sequence[object]
    """All samples, sorted; as text, their names."""
    num_views: int
    """Pictures of each sample."""
    framing: Framing
    """Of all pictures."""
    split_name: str
    """What made the parts."""
    train: npt.NDArray[np.int64]
    """Positions in `refs`, sorted; so are the other two parts."""
    validation: npt.NDArray[np.int64]
    """Samples that the best checkpoint is chosen by."""
    test: npt.NDArray[np.int64]
    """Samples that nothing is chosen by."""
    content_digest: str
    """The same on two ranks if and only if both would read the same bytes in the same parts."""

    def __len__(self) -> int:
        return len(self.refs)

    @abstractmethod
    def images(self, index: int, views: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return pictures of one sample: V×H×W×4 uint8 RGBA of the framing's side.

        Raises:
            DamagedSampleError: they cannot be read any more.
        """

    def rectangles(self, index: int, views: Sequence[int]) -> Rectangles:
        """Return what can be seen of the same pictures; data that keep it apart hand it over without copying.

        Raises:
            DamagedSampleError: they cannot be read any more.
        """
        side = self.framing.picture_side
        pictures = [picture.reshape(-1) for picture in self.images(index, views)]
        return Rectangles([(0, 0, side, side)] * len(pictures), pictures)

    @abstractmethod
    def target(self, index: int) -> npt.NDArray[Any]:
        """Return what the network is to make of a sample's pictures."""

    def targets(self, indices: Sequence[int]) -> npt.NDArray[Any]:
        """Return the targets of samples, along a new first axis."""
        return np.stack([self.target(index) for index in indices])

    @abstractmethod
    def category(self, index: int) -> str:
        """Return the category of a sample, for people."""

    def summary(self) -> str:
        """Return a table of the samples of each category and part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = {name: Counter(self.category(int(index)) for index in indices) for name, indices in parts.items()}
        categories = sorted(set().union(*counts.values()))
        rows = [(category, [counts[name][category] for name in parts]) for category in categories]
        rows.append(("all", [len(indices) for indices in parts.values()]))
        width = max(24, *(len(category) + 1 for category in categories))
        lines = [f"{'split ' + self.split_name:<{width}}" + "".join(f"{name:>12}" for name in (*parts, self.noun))]
        for name, numbers in rows:
            lines.append(f"{name:<{width}}" + "".join(f"{number:>12,}" for number in (*numbers, sum(numbers))))
        return "\n".join(lines)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self.refs):
            raise IndexError(f"sample {index}: the data set has the samples 0 to {len(self.refs) - 1}")
