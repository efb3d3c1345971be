"""Batches of a data set, read ahead by background threads in an order that does not depend on them.

Legend: V views, B batch (this rank's share), H×W×C the square RGBA picture, F features.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data.augment import (
    AugmentationDraws,
    Framing,
    augment_labelled,
    augment_packed,
    centre_draws,
    draw_batch,
)
from hvd_r2n2.data.dropout import draw_masks
from hvd_r2n2.data.packed import PackedPictures, pack
from hvd_r2n2.data.sampler import EpochOrders, evaluation_chunks, global_batch, num_views_of_step, rank_slice
from hvd_r2n2.data.samples import DamagedSampleError, Samples

_EVALUATION_THREADS, _EVALUATION_PREFETCH = 2, 2


@dataclass(frozen=True)
class Batch:
    """A rank's samples of one step, on the host.

    `pictures` are RGBA; `targets` has the samples' targets along its first axis: uint8 occupancy B×D×D×D, or
    int64 labels B; `samples` are their names, `indices` (int64) their positions in the data set; `draws` says how the
    pictures are to be cropped, flipped and coloured; `step` is the training step, or in evaluation the number of
    the chunk, from 0; `masks_BF` are, by name, uint8 ones for the features that dropout keeps (none in evaluation);
    `replaced` says of each damaged sample which other one stands in its place.
    """

    pictures: PackedPictures
    targets: torch.Tensor
    samples: tuple[str, ...]
    indices: torch.Tensor
    draws: AugmentationDraws
    step: int
    masks_BF: Mapping[str, torch.Tensor] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """The number of pictures: views times samples."""
        return self.pictures.starts_VB.numel()

    @property
    def images_VBHWC(self) -> torch.Tensor:
        """The pictures themselves, uint8; a copy, where they are not whole."""
        return self.pictures.unpack()

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with each tensor (but `indices`) replaced by the function of it."""
        return replace(
            self,
            pictures=self.pictures.mapped(function),
            targets=function(self.targets),
            draws=self.draws.mapped(function),
            masks_BF={name: function(mask) for name, mask in self.masks_BF.items()},
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors (but `indices`) on a device; those that are there already stay."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which a GPU copies in the background."""
        return self.mapped(torch.Tensor.pin_memory)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return every tensor that `mapped` replaces."""
        return (*self.pictures.tensors(), self.targets, *self.draws.tensors(), *self.masks_BF.values())


class BatchStream(Iterator[Batch]):
    """Batches in order, made ahead by threads; a context manager, to be closed when left early.

    `wait_s` is how long the last batch was waited for. An error in a thread is raised where its batch is due.
    """

    def __init__(self, steps: Sequence[int], make: Callable[[int], Batch], num_threads: int, prefetch: int) -> None:
        """Start making the batches of the first steps."""
        self.wait_s = 0.0
        self._steps = iter(steps)
        self._remaining = len(steps)
        self._make = make
        self._closed = False
        self._ahead: deque[Future[Batch]] = deque()
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="hvd_r2n2-loader")
        for _ in range(prefetch):
            self._submit()

    def __len__(self) -> int:
        """Return the number of batches still to come."""
        return self._remaining

    def __next__(self) -> Batch:
        if self._closed and self._remaining:
            raise ValueError("this stream of batches is closed")
        if not self._ahead:
            self.close()
            raise StopIteration
        start = time.perf_counter()
        try:
            batch = self._ahead.popleft().result()
        except BaseException as error:
            self.close()
            if isinstance(error, StopIteration):  # which would pass for the end of the stream
                raise RuntimeError("making a batch raised StopIteration") from error
            raise
        self.wait_s = time.perf_counter() - start
        self._remaining -= 1
        self._submit()
        return batch

    def close(self) -> None:
        """Stop the threads and wait until they have ended, at most the time of one batch. May be called twice."""
        self._closed = True
        self._ahead.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ahead.append(self._executor.submit(self._make, step))


def training_batches(
    dataset: Samples,
    *,
    indices: npt.NDArray[np.int64],
    batch_size: int,
    rank: int,
    size: int,
    seed: int,
    min_views: int,
    max_views: int,
    start_step: int,
    end_step: int,
    config: DataConfig,
    masks: Mapping[str, int] | None = None,
    pin_for: torch.device | None = None,
) -> BatchStream:
    """Read this rank's batches of the steps start_step ... end_step - 1.

    Position p = step·batch_size + i of the endless order is sample p mod N of the permutation of epoch p div N;
    rank r reads the r-th of `size` equal parts of a step. So a step's global batch depends on the seed and the step
    alone, for any number of ranks and threads, and a run resumes at a step by its number. With `damaged_samples`
    `replace`, the next whole one in the order of `indices` takes a damaged sample's place, with the views and the
    augmentation drawn for that, which depends on the sample alone as well.

    Args:
        dataset: Where samples are read.
        indices: The samples to train on, N of them.
        batch_size: Samples a step over all ranks.
        rank: This rank.
        size: Number of ranks.
        seed: Of order, number of views, choice of views and augmentation.
        min_views: Fewest views of a step; the number is drawn for each step.
        max_views: Most views of a step; the views of a sample are drawn with replacement, as in the original.
        start_step: First step.
        end_step: Step after the last.
        config: Augmentation, threads and batches ahead, and what is done about damaged samples.
        masks: Names of dropout masks to draw, and the number of features of each.
        pin_for: A CUDA device to hold page-locked memory for.

    Raises:
        ValueError: there is nothing to train on, or the batch does not divide among the ranks.
    """
    if len(indices) == 0:
        raise ValueError("there are no samples to train on: the train part of the split is empty")
    if not 1 <= min_views <= max_views:
        raise ValueError(f"min_views {min_views} and max_views {max_views}: must be 1 <= min_views <= max_views")
    part = rank_slice(batch_size, rank, size)
    orders = EpochOrders(len(indices), seed)

    def following(sample: int) -> Iterable[int]:
        return map(int, np.roll(indices, -1 - int(np.flatnonzero(indices == sample)[0]))[:-1])

    def make(step: int) -> Batch:
        num_views = num_views_of_step(seed, step, min_views, max_views)
        places = global_batch(orders, batch_size, step)[part]
        epochs = [place.epoch for place in places]
        samples = indices[[place.position for place in places]].tolist()
        views, draws = draw_batch(
            seed,
            list(zip(epochs, samples, strict=True)),
            num_views=num_views,
            num_renderings=dataset.num_views,
            framing=dataset.framing,
            random_crop=config.random_crop,
            flip_probability=config.flip_probability,
            background=config.background,
        )
        others = following if config.damaged_samples == "replace" else _none
        batch = _read_batch(dataset, step, f"step {step + 1}", samples, views, draws, others)
        if masks:
            batch = replace(batch, masks_BF=draw_masks(seed, epochs, samples, masks))
        return _pinned(batch, pin_for)

    return BatchStream(range(start_step, end_step), make, config.loader_threads, config.prefetch_batches)


def evaluation_batches(
    dataset: Samples,
    indices: npt.NDArray[np.int64],
    num_views: int,
    batch_size: int,
    rank: int,
    size: int,
    *,
    pin_for: torch.device | None = None,
) -> BatchStream:
    """Read this rank's share of `indices`, each sample exactly once over all ranks, without padding.

    Chunk c of `batch_size` samples goes to rank c mod size; the last may be shorter and a rank may get none. Every
    sample has its first `num_views` views. Pictures get the centre crop on grey 240.
    """
    if num_views < 1:
        raise ValueError("evaluation needs at least one view")
    chunks = {chunk.start // batch_size: chunk for chunk in evaluation_chunks(len(indices), batch_size, rank, size)}

    def make(step: int) -> Batch:
        samples = [int(indices[position]) for position in chunks[step]]
        draws = centre_draws(num_views, len(samples), framing=dataset.framing)
        views, purpose = [range(num_views)] * len(samples), f"batch {step + 1} of the evaluation"
        return _pinned(_read_batch(dataset, step, purpose, samples, views, draws), pin_for)

    return BatchStream(tuple(chunks), make, _EVALUATION_THREADS, _EVALUATION_PREFETCH)


def move_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Give the batches on `device`, each copied to a GPU while the one before is being trained on.

    On a CPU they are given as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = batch.to(device)
        if ahead is not None:
            yield ahead
        # What trains on it must wait for its copy, and its memory must not be given away before that has ended.
        torch.cuda.current_stream(device).wait_stream(copying)
        for tensor in moved.tensors():
            tensor.record_stream(torch.cuda.current_stream(device))
        ahead = moved
    if ahead is not None:
        yield ahead


def prepare_batch(
    batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a batch of renderings and grids to the training device and augment it there.

    Returns:
        Pictures V×B×3×127×127 in [0, 1] of `dtype`, and the occupancy B×D×D×D uint8 (0 or 1), both on `device`.
    """
    batch = batch.to(device)
    return augment_packed(batch.pictures, batch.draws, dtype), batch.targets


def prepare_labelled(
    batch: Batch, framing: Framing, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Move a batch of labelled pictures to the training device and augment it there.

    Returns:
        Pictures B×3×H×W from -128 to 127 of `dtype`, their labels B int64, and by name the dropout masks B×F of
        `dtype`: 0, or the 2 that keeps the mean as it is where half are 0.
    """
    batch = batch.to(device)
    images_VBCHW = augment_labelled(batch.images_VBHWC, batch.draws, framing, dtype)
    return images_VBCHW[0], batch.targets, {name: mask.to(dtype) * 2 for name, mask in batch.masks_BF.items()}


def _none(sample: int) -> Iterable[int]:
    return ()


def _read_batch(
    dataset: Samples,
    step: int,
    purpose: str,
    samples: Sequence[int],
    views: Sequence[Sequence[int]],
    draws: AugmentationDraws,
    others: Callable[[int], Iterable[int]] = _none,
) -> Batch:
    """Read samples for a purpose (said in errors); where one is damaged, the first whole one of its `others`."""
    rectangles, taken, replaced = [], [], []
    for sample, chosen in zip(samples, views, strict=True):
        problem = None
        for candidate in itertools.chain([sample], others(sample)):
            try:
                rectangles.append(dataset.rectangles(candidate, chosen))
                taken.append(candidate)
                break
            except DamagedSampleError as error:
                problem = problem or error
            except (OSError, ValueError) as error:
                raise _failure(dataset, sample, purpose, error) from error
        else:
            raise _failure(dataset, sample, purpose, problem) from problem
        if problem is not None:
            replaced.append(f"{dataset.refs[taken[-1]]} takes the place of {dataset.refs[sample]} ({problem})")
    return Batch(
        pack(rectangles, dataset.framing.picture_side),
        torch.from_numpy(dataset.targets(taken)),
        tuple(str(dataset.refs[sample]) for sample in taken),
        torch.from_numpy(np.array(taken, dtype=np.int64)),  # torch alone takes ten times as long
        draws,
        step,
        replaced=tuple(replaced),
    )


def _failure(dataset: Samples, sample: int, purpose: str, error: Exception | None) -> OSError:
    return OSError(f"reading sample {dataset.refs[sample]} for {purpose}: {error}")


def _pinned(batch: Batch, device: torch.device | None) -> Batch:
    if device is None or device.type != "cuda":
        return batch
    # A new thread would otherwise make a context on the first GPU.
    with torch.cuda.device(device):
        return batch.pin_memory()
