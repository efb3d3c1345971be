"""A data set on disk, opened: scanned, split, checked as a whole, and read from its decoded cache."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hvd_r2n2.common.names import nearest_hint
from hvd_r2n2.config import DataConfig
from hvd_r2n2.data.augment import RENDERING_FRAMING
from hvd_r2n2.data.cache import CacheKey, CategoryCache
from hvd_r2n2.data.cache_build import cache_folder, open_or_build
from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.categories import CATEGORIES, Category, find_category
from hvd_r2n2.data.check import DataProblems, Problem
from hvd_r2n2.data.layout import (
    NUM_VIEWS,
    RENDERING_FOLDER,
    ModelRef,
    fingerprint,
    list_models,
    parse_model_ref,
    voxel_folder,
)
from hvd_r2n2.data.packed import Rectangles, pack
from hvd_r2n2.data.samples import Samples
from hvd_r2n2.data.splits import R2N2, VALIDATION_FRACTION, Split, read_split_file, split_r2n2

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Location:
    cache: CategoryCache
    position: int


class Dataset(Samples):
    """Models with their pictures and grids, in three parts; made by `open_dataset`.

    `refs` names all models; the target of one is its occupancy.
    """

    noun = "models"
    framing = RENDERING_FRAMING

    def __init__(
        self, split: Split, caches: Mapping[str, CategoryCache], voxel_resolution: int, num_views: int
    ) -> None:
        """Join a split with the caches, by synset, that hold all its models."""
        self.split_name = split.name
        self.voxel_resolution = voxel_resolution
        self.num_views = num_views
        self.refs: tuple[ModelRef, ...] = split.models
        positions = {
            ModelRef(synset, model_id): _Location(cache, position)
            for synset, cache in caches.items()
            for position, model_id in enumerate(cache.model_ids)
        }
        self._locations = [positions[ref] for ref in self.refs]
        index = {ref: number for number, ref in enumerate(self.refs)}
        self.train, self.validation, self.test = (
            np.array([index[ref] for ref in part], dtype=np.int64)
            for part in (split.train, split.validation, split.test)
        )
        self.content_digest = self._digest()

    def images(self, index: int, views: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return views of one model: V×137×137×4 uint8 RGBA; where alpha is 0, the colour is 0 too."""
        return pack([self.rectangles(index, views)], IMAGE_SIZE).unpack()[:, 0].numpy()

    def rectangles(self, index: int, views: Sequence[int]) -> Rectangles:
        """Return the rectangles of one model's views, which lie in the mapped cache."""
        self._check_index(index)
        if views and not (min(views) >= 0 and max(views) < self.num_views):
            wrong = next(view for view in views if not 0 <= view < self.num_views)
            raise IndexError(f"view {wrong} of {self.refs[index]}: there are the views 0 to {self.num_views - 1}")
        location = self._locations[index]
        return location.cache.rectangles(location.position, views)

    def occupancy(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the grid of one model: D×D×D uint8 (0 or 1), indexed x, y, z with y up."""
        self._check_index(index)
        location = self._locations[index]
        return location.cache.read_occupancy(location.position)

    def target(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the model's `occupancy`."""
        return self.occupancy(index)

    def targets(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return the grids of models, B×D×D×D, unpacked all at once."""
        locations = [self._locations[index] for index in indices]
        bits_BP = np.stack([location.cache.read_bits(location.position) for location in locations])
        shape = (len(locations), *(self.voxel_resolution,) * 3)
        return np.unpackbits(bits_BP, axis=1, count=self.voxel_resolution**3).reshape(shape)

    def category(self, index: int) -> str:
        """Return the synset and the name of a model's category."""
        return str(CATEGORIES[self.refs[index].synset])

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for indices in (self.train, self.validation, self.test):
            digest.update(f"{len(indices)}\n".encode())
            for index in indices:
                location = self._locations[index]
                content = location.cache.digests_ND[location.position].tobytes()
                digest.update(f"{self.refs[index]}\n".encode() + content)
        return digest.hexdigest()


def open_dataset(
    config: DataConfig,
    root: Path,
    voxel_resolution: int,
    report: Report,
    num_views: int = NUM_VIEWS,
    head_start_s: float = 0.0,
) -> Dataset:
    """Scan a folder in the ShapeNet layout, split it, check every file, and open the decoded cache.

    The first time, all files are decoded, which checks them too, and the cache is written; later nothing is decoded
    unless a file has changed. Every rank may call this, also at the same time; nothing is communicated.

    Args:
        config: The split, the categories, the models to skip, and where the cache goes; `config.root` is not read.
        root: The folder with ShapeNetRendering/ and ShapeNetVox<resolution>/.
        voxel_resolution: Side of the grids, which chooses the folder of voxels.
        report: Gets one line at a time: what is written where, how far it is, what is not used.
        num_views: Pictures that every model must have.
        head_start_s: How long another process is given to begin with what must be built, which it then reports.

    Raises:
        DataProblems: (a ValueError) models are missing or broken; all of them are named at once.
        ValueError: the folder, the split, a category or a model to skip does not exist, or the cache cannot be written.
    """
    present = _list_present(config, root, voxel_resolution)
    split, skipped = _choose(config, root, present, voxel_resolution)
    models = split.models
    missing = _missing(config, split, skipped, present, voxel_resolution)
    wanted = {
        CacheKey(
            synset, voxel_resolution, num_views, fingerprint(root, present[synset], voxel_resolution, num_views)
        ): present[synset]
        for synset in sorted({ref.synset for ref in models})
        if present[synset]
    }
    caches = open_or_build(root, cache_folder(root, config.cache_dir), wanted, report, head_start_s)
    used = {str(ref) for ref in models if ref not in skipped}
    broken = [problem for cache in caches.values() for problem in cache.problems if problem.model in used]
    if missing or broken:
        located = (replace(problem, path=str(root / problem.path)) for problem in (*missing, *broken))
        raise DataProblems(located, map(str, skipped))
    unused = len({ref for refs in present.values() for ref in refs} - set(models))
    if unused:
        report(f"{unused:,} models in {root} are in no part of the split {split.name} and are not used")
    if skipped:
        report(f"{len(skipped):,} models are left out by data.skip_models")
    return Dataset(split.without(skipped), caches, voxel_resolution, num_views)


def _list_present(config: DataConfig, root: Path, voxel_resolution: int) -> dict[str, tuple[ModelRef, ...]]:
    """List the models on disk of each category that the configuration chooses."""
    folders = (RENDERING_FOLDER, voxel_folder(voxel_resolution))
    lacking = [name for name in folders if not (root / name).is_dir()]
    if lacking:
        raise ValueError(
            f"{root}: no folder {' and no folder '.join(lacking)}; the ShapeNet layout of 3D-R2N2 has {folders[0]}/ "
            f"and, for a voxel resolution of {voxel_resolution}, {folders[1]}/ side by side"
        )
    chosen: list[Category]
    if config.categories is None:
        chosen = list(CATEGORIES.values())
    else:
        chosen = [find_category(name) for name in config.categories]
        repeated = [category for number, category in enumerate(chosen) if category in chosen[:number]]
        if repeated:
            raise ValueError(f"data.categories names {repeated[0]} twice")
    present = {category.synset: list_models(root, category, voxel_resolution) for category in chosen}
    if not any(present.values()):
        raise ValueError(f"{root}: there are no models of {', '.join(map(str, chosen))}")
    return present


def _choose(
    config: DataConfig, root: Path, present: Mapping[str, Sequence[ModelRef]], voxel_resolution: int
) -> tuple[Split, set[ModelRef]]:
    """Make the split of the chosen categories, and resolve the models to skip (those of the split)."""
    if config.split == R2N2:
        whole = split_r2n2(present, config.validation_fraction or VALIDATION_FRACTION)
    elif Path(config.split).is_file():
        whole = read_split_file(Path(config.split))
    else:
        raise ValueError(f"data.split {config.split!r} is neither {R2N2!r} nor a file")
    chosen = set(present)
    split = Split(
        whole.name,
        *(tuple(ref for ref in part if ref.synset in chosen) for part in (whole.train, whole.validation, whole.test)),
    )
    if not split.models:
        raise ValueError(f"the split {whole.name} has no models of the chosen categories")
    known = {*whole.models, *(ref for refs in present.values() for ref in refs)}
    skips = {_find_skip(name, known, root, voxel_resolution) for name in config.skip_models}
    return split, skips & set(split.models)


def _find_skip(name: str, known: set[ModelRef], root: Path, voxel_resolution: int) -> ModelRef:
    try:
        ref = parse_model_ref(name)
    except ValueError as error:
        raise ValueError(f"data.skip_models: {error}") from error
    if ref in known:
        return ref
    # A list for all data stays valid when only some categories are chosen.
    if ref in list_models(root, CATEGORIES[ref.synset], voxel_resolution):
        return ref
    candidates = [str(other) for other in known if other.synset == ref.synset] or [str(other) for other in known]
    hint = nearest_hint("; the nearest is {}", name, candidates, cutoff=0.0)
    raise ValueError(f"data.skip_models: there is no model {name}{hint}")


def _missing(
    config: DataConfig,
    split: Split,
    skipped: set[ModelRef],
    present: Mapping[str, Sequence[ModelRef]],
    voxel_resolution: int,
) -> list[Problem]:
    """Report the models of the split, and the categories chosen, that are not on disk."""
    problems = []
    places = f"{{{RENDERING_FOLDER},{voxel_folder(voxel_resolution)}}}"
    for synset, refs in present.items():
        on_disk = set(refs)
        of_split = [ref for ref in split.models if ref.synset == synset]
        absent = [ref for ref in of_split if ref not in on_disk and ref not in skipped]
        if not refs and (absent or (config.categories is not None and not of_split)):
            count = f"; the split {split.name} has {len(absent):,} models of it" if absent else ""
            reason = f"there are no models of {CATEGORIES[synset]}{count}"
            problems.append(Problem(synset, "missing category", f"{places}/{synset}", reason))
        else:
            reason = f"the split {split.name} has this model, but it is not there"
            problems += [Problem(str(ref), "missing model", f"{places}/{ref}", reason) for ref in absent]
        if refs and config.categories is not None and not of_split:
            raise ValueError(f"data.categories names {CATEGORIES[synset]}, but the split {split.name} has none of it")
    return problems
