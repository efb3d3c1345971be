"""Checkpoints: written whole or not at all, checked by sum, and never unpickled.

checkpoints/step-00000100/   model.safetensors   every weight, by name
                             optimizer.safetensors   its state, by weight and key
                             state.json          step, samples seen, best so far, the plan of a split
                             config.yaml         the resolved settings
                             manifest.json       size and SHA-256 of each of these; written last
checkpoints/last -> step-…   the newest
checkpoints/best -> step-…   the best on the validation part
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hvd_r2n2.common.files import read_json
from hvd_r2n2.common.memory import is_out_of_memory
from hvd_r2n2.common.standard_error import say
from hvd_r2n2.config import Config, config_from_mapping, load_config, to_mapping, to_yaml
from hvd_r2n2.models import Network, load_weights, save_weights
from hvd_r2n2.training.engine import Engine
from hvd_r2n2.training.planning import KeptPlan, given_plan
from hvd_r2n2.training.spike_guard import SpikeHistory

_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "config.yaml")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, besides weights and optimizer. All random numbers follow from seed and step."""

    step: int
    """Optimizer steps done."""
    samples_seen: int
    """Position in the stream of training samples: step times global batch size."""
    train_seconds: float
    """Time spent training, over all resumptions."""
    data_digest: str = ""
    """Digest of all samples and their parts: the stream of samples means nothing on other data."""
    best_score: float | None = None
    """Best validation score so far: IoU, or of a classifier accuracy."""
    best_step: int | None = None
    """The step it was reached at."""
    spikes: SpikeHistory = SpikeHistory()  # noqa: RUF009 (it cannot change)
    """What the next loss is judged by."""
    num_replaced: int = 0
    """Damaged samples of the run in whose place another one was taken, on all ranks."""
    plan: KeptPlan | None = None
    """How the network is split, where the settings leave that open."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    """Its folder."""
    config: Config
    """The settings it was trained with."""
    state: TrainingState
    """Where the run stood."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state.step

    @property
    def weights_path(self) -> Path:
        """The weights' file."""
        return self.path / "model.safetensors"

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so of all files."""
        return _sha256(self.path / "manifest.json")


class LinksError(OSError):
    """A checkpoint is written, but the links to it are not right, or older ones are still there."""


def write_checkpoint(
    folder: Path,
    model: Network,
    optimizer_tensors: Mapping[str, torch.Tensor],
    state: TrainingState,
    config: Config,
    warn: Callable[[str], None] = say,
) -> Path:
    """Write `folder`/step-N, point `last` (and `best`) at it, and drop what need not be kept; rank 0 only.

    The files are written under another name, synced and renamed, so that no crash leaves half a checkpoint
    under a name that is looked for.

    Raises:
        LinksError: it is written, but the links or older checkpoints could not be changed.
        OSError: no room or no permission; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _folder_name(state.step)
    partial = folder / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        save_weights(model, partial / "model.safetensors")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in optimizer_tensors.items()}
        save_file(tensors, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        (partial / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        sums = {name: {"bytes": (partial / name).stat().st_size, "sha256": _sha256(partial / name)} for name in _FILES}
        (partial / "manifest.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        for name in (*_FILES, "manifest.json"):
            _sync(partial / name)
        _sync(partial)
        _replace(partial, target)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not (isinstance(error, (OSError, SafetensorError)) or is_out_of_memory(error)):
            raise
        raise OSError(f"{target}: the checkpoint could not be written ({error}); earlier ones are untouched") from error
    try:
        point_links(folder, state)
        _drop_old(folder, config.checkpoint.keep_last, warn)
    except OSError as error:
        raise LinksError(
            f"{target}: the checkpoint is written, but `last` and `best` could not be pointed at the right ones, or "
            f"older ones not be removed ({error})"
        ) from error
    return target


def point_links(folder: Path, state: TrainingState) -> None:
    """Point `best` and `last` where `state`, that of the newest checkpoint, says; rank 0 only.

    Done again when a run is resumed, since it may have been killed before.
    """
    best = None if state.best_step is None else folder / _folder_name(state.best_step)
    if best is not None and best.is_dir():
        _point(folder / "best", best.name)
    _point(folder / "last", _folder_name(state.step))


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's folder against its sums and read what it says about itself.

    Raises:
        ValueError: it is not a checkpoint, not whole, or damaged; says which file.
    """
    manifest = _read_json(path / "manifest.json", f"{path} is not a checkpoint")
    if set(manifest) != set(_FILES):
        raise ValueError(f"{path}/manifest.json: {', '.join(_FILES)} are needed, it lists {', '.join(manifest)}")
    for name, entry in manifest.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size is None or not isinstance(entry, dict) or size != entry.get("bytes"):
            raise ValueError(f"{file}: damaged (missing, or not of the size that manifest.json says)")
        if _sha256(file) != entry.get("sha256"):
            raise ValueError(f"{file}: damaged (its SHA-256 is not what manifest.json says)")
    config = load_config(path / "config.yaml")
    return Checkpoint(path, config, _read_state(path, config))


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a user means: a checkpoint's own folder, or a run's best, else its last.

    Raises:
        ValueError: there is none.
    """
    if (path / "manifest.json").is_file():
        return path.resolve()
    for name in ("best", "last"):
        link = path / "checkpoints" / name
        if link.is_symlink() or link.exists():
            return link.resolve()
    raise ValueError(
        f"{path}: neither a checkpoint (a folder with manifest.json) nor a run with one in checkpoints/"
        + ("" if path.exists() else "; it does not exist")
    )


def open_checkpoint(path: Path, warn: Callable[[str], None]) -> Checkpoint:
    """Read the checkpoint that a user means; of a run whose best one is damaged, the newest whole one.

    Raises:
        ValueError: there is none, the one that was named is damaged, or all of a run's are.
    """
    meant = find_checkpoint(path)
    try:
        return read_checkpoint(meant)
    except ValueError as error:
        if meant == path.resolve():
            raise
        problem = str(error)
        warn(f"{problem}; taking the newest whole one")
    try:
        newest = find_newest(path / "checkpoints", warn)
    except ValueError as error:
        raise ValueError(f"{problem}; {error}") from None
    if newest is None:
        raise ValueError(f"{path}: there is no checkpoint in checkpoints/")
    return newest


def find_newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest whole checkpoint in `folder`, None if there is none; `warn` hears of damaged ones passed over.

    Raises:
        ValueError: there are some, and none is whole.
    """
    found = sorted((p for p in folder.glob("step-*") if _STEP_FOLDER.fullmatch(p.name)), reverse=True)
    for path in found:
        try:
            return read_checkpoint(path)
        except ValueError as error:
            warn(f"{error}; trying the one before")
    if found:
        raise ValueError(f"{folder}: none of the {len(found)} checkpoints is whole; start anew with another --out")
    return None


def restore(checkpoint: Checkpoint, engine: Engine) -> None:
    """Load weights and optimizer state into an engine; every rank does it from the file.

    Raises:
        ValueError: the file does not fit the network or the optimizer.
    """
    load_weights(engine.model, checkpoint.weights_path)
    engine.take_up()
    path = checkpoint.path / "optimizer.safetensors"
    try:
        engine.load_optimizer_tensors(load_file(path))
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from None


def _read_state(path: Path, config: Config) -> TrainingState:
    values = _read_json(path / "state.json", f"{path} is damaged")
    try:
        plan = _read_plan(values.pop("plan", None), f"{path}/state.json", config)
        spikes = SpikeHistory(**values.pop("spikes", {}))
        state = TrainingState(**values, spikes=replace(spikes, losses=tuple(spikes.losses)), plan=plan)
    except TypeError as error:
        raise ValueError(f"{path}/state.json: written by another version of hvd_r2n2 ({error})") from None
    counts = (state.step, state.samples_seen, state.best_step or 0, state.num_replaced, spikes.in_a_row, spikes.skipped)
    bubble_share = plan.bubble_share if plan else None
    figures = (state.train_seconds, state.best_score or 0.0, bubble_share or 0.0, *state.spikes.losses)
    if (
        not all(type(count) is int and count >= 0 for count in counts)
        or not all(type(figure) in (int, float) and math.isfinite(figure) for figure in figures)
        or not isinstance(state.data_digest, str)
    ):
        raise ValueError(f"{path}/state.json: its values are not those of a training run")
    return state


def _read_plan(values: Any, source: str, config: Config) -> KeptPlan | None:
    """Read what is kept of a plan, whose settings are checked together with those of the run."""
    if values is None:
        return None
    plan = KeptPlan(**values)
    split = config_from_mapping(to_mapping(config) | {"split": plan.split}, source).split
    if split.strategy != "none" and given_plan(split) is None:  # which would be taken for one device alone
        raise ValueError(f"{source}: the plan of its split, {split.strategy}, is not whole")
    return replace(plan, split=split)


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def _replace(partial: Path, target: Path) -> None:
    if target.exists():  # a damaged one of the same step, which resumption passed over
        aside = target.with_name(f".partial-old-{target.name}")
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    partial.rename(target)
    _sync(target.parent)


def _point(link: Path, target: str) -> None:
    """Make `link` point at `target` in one step: it never points nowhere."""
    if link.is_symlink() and link.readlink() == Path(target):
        return
    temporary = link.with_name(f".partial-{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    _sync(link.parent)


def _drop_old(folder: Path, keep_last: int, warn: Callable[[str], None]) -> None:
    steps = sorted(p for p in folder.glob("step-*") if _STEP_FOLDER.fullmatch(p.name))
    kept = {*steps[-keep_last:], (folder / "best").resolve(), (folder / "last").resolve()}
    for path in steps:
        if path not in kept and path.resolve() not in kept and path.is_dir() and not path.is_symlink():
            # Renamed first: half-deleted, it must not be taken for a checkpoint.
            path.rename(path.with_name(f".partial-old-{path.name}"))
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)
    left = len(list(folder.glob(".partial-old-*")))
    if left:
        warn(
            f"warning: {folder}: {left} old checkpoint(s), .partial-old-*, cannot be removed; the next one tries again"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{otherwise}: {path.name} cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{otherwise}: {path.name} is not a JSON object")
    return values
