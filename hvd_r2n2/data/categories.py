"""The 13 ShapeNet categories of 3D-R2N2, and how one is found by synset id or name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hvd_r2n2.common.names import nearest_hint


@dataclass(frozen=True)
class Category:
    """One ShapeNet category: the WordNet synset that names its folder, and its English name."""

    synset: str
    name: str

    def __str__(self) -> str:
        return f"{self.synset} {self.name}"


CATEGORIES: Mapping[str, Category] = MappingProxyType(
    {
        synset: Category(synset, name)
        for synset, name in (
            ("02691156", "aeroplane"),
            ("02828884", "bench"),
            ("02933112", "cabinet"),
            ("02958343", "car"),
            ("03001627", "chair"),
            ("03211117", "display"),
            ("03636649", "lamp"),
            ("03691459", "speaker"),
            ("04090263", "rifle"),
            ("04256520", "sofa"),
            ("04379243", "table"),
            ("04401088", "telephone"),
            ("04530566", "watercraft"),
        )
    }
)
"""The categories by synset id, in the order of the ids."""


def find_category(synset_or_name: str) -> Category:
    """Return the category with this synset id or name.

    Raises:
        ValueError: no such category; the message names the nearest one and all 13.
    """
    if synset_or_name in CATEGORIES:
        return CATEGORIES[synset_or_name]
    by_name = {category.name: category for category in CATEGORIES.values()}
    if synset_or_name.lower() in by_name:
        return by_name[synset_or_name.lower()]
    hint = nearest_hint(" (did you mean {!r}?)", synset_or_name.lower(), [*by_name, *CATEGORIES])
    known = ", ".join(str(category) for category in CATEGORIES.values())
    raise ValueError(f"unknown category {synset_or_name!r}{hint}; the 13 categories are {known}")
