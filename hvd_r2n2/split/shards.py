"""The weights of a split network: which rows of which parameter lie on which device."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hvd_r2n2.common.stages import Stage
from hvd_r2n2.split.cutting import row_axes
from hvd_r2n2.split.program import Piece

_LETTERS = {"channels": "CF", "planes": "D"}


@dataclass(frozen=True)
class Rows:
    """Some rows of a parameter whose axis 0 counts several things at once, such as (gate, channel)."""

    sizes: tuple[int, ...]
    """What axis 0 is made of."""
    axis: int
    """Which of them is narrowed."""
    start: int
    length: int

    def of(self, full: Tensor) -> Tensor:
        """Give the rows of a whole parameter, with axis 0 unfolded into `sizes`: a view."""
        return full.view(*self.sizes, *full.shape[1:]).narrow(self.axis, self.start, self.length)


@dataclass(eq=False)
class Shard:
    """What one device trains of one parameter: a leaf of its own, and its twins on other devices.

    Pieces that compute whole stages on different samples or planes have the same rows: the first device's leaf is
    the one that the optimizer moves, the others are its replicas, whose gradients are added to its own.
    """

    name: str
    """Of the network's parameter."""
    label: str
    """`name`, with the rows where it is not the whole: names a reduction over ranks."""
    rows: Rows | None
    device: int
    leaf: nn.Parameter
    replicas: dict[int, nn.Parameter] = field(default_factory=dict)
    """By device; on the same physical device they share the leaf's memory."""
    pieces: list[str] = field(default_factory=list)
    """Names of the pieces that use it; its gradient is whole when the last of them is done."""

    def add_replicas(self) -> None:
        """Add the replicas' gradients to the leaf's own, in the order of the devices."""
        for _, replica in sorted(self.replicas.items()):
            if replica.grad is not None:
                if replica.grad.is_cuda:  # its memory must not be used again before this sum has been taken
                    replica.grad.record_stream(torch.cuda.current_stream(self.leaf.device))
                gradient = replica.grad.to(self.leaf.device, non_blocking=True)
                self.leaf.grad = gradient if self.leaf.grad is None else self.leaf.grad.add_(gradient)
                replica.grad = None

    def leaves_on(self, device: int) -> list[nn.Parameter]:
        """Give what a device computes with: its leaf or replica, or nothing."""
        return [self.leaf] if device == self.device else [self.replicas[device]] if device in self.replicas else []


class Shards:
    """All shards of a network, and the stages of every piece, made of them."""

    def __init__(
        self, model: nn.Module, stages: Sequence[Stage], pieces: Iterable[Piece], devices: Sequence[torch.device]
    ):
        """Cut the parameters; a whole one on the device where the network has it stays the network's own."""
        self._parameters = dict(model.named_parameters())
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._devices = devices
        self._shards: dict[tuple[str, Rows | None], Shard] = {}
        self._leaves: dict[tuple[str, Rows | None, int], nn.Parameter] = {}
        by_name = {stage.name: stage for stage in stages}
        self.stages: Mapping[str, tuple[Stage, ...]] = {
            piece.name: tuple(self._part(by_name[name], piece) for name in piece.stages) for piece in pieces
        }
        missing = self._parameters.keys() - {shard.name for shard in self._shards.values()}
        assert not missing, f"no piece computes with {sorted(missing)}"

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards.values())

    def of_piece(self, name: str) -> list[Shard]:
        """Give the shards that a piece uses."""
        return [shard for shard in self if name in shard.pieces]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the shards into the network's parameters."""
        for shard in self:
            put(self._parameters[shard.name].data, shard, shard.leaf.data)

    @torch.no_grad()
    def take_up(self) -> None:
        """Copy the network's parameters into the shards and their replicas."""
        for shard in self:
            full = self._parameters[shard.name].data
            for leaf in (shard.leaf, *shard.replicas.values()):
                take(full, shard, leaf.data)

    @torch.no_grad()
    def update_replicas(self) -> None:
        """Copy each shard into its replicas, where these have memory of their own."""
        for shard in self:
            for replica in shard.replicas.values():
                if replica.data_ptr() != shard.leaf.data_ptr():
                    replica.copy_(shard.leaf, non_blocking=True)

    def _part(self, stage: Stage, piece: Piece) -> Stage:
        """Give the stage as one piece computes it, with leaves of that piece's device."""
        originals = {id(parameter): parameter for parameter in stage.module.parameters()}
        module = copy.deepcopy(stage.module, dict(originals))  # the parameters themselves are not copied
        letters = _LETTERS.get(piece.cut or "", "")
        for owner in module.modules():
            axes = row_axes(owner)
            letter = next((letter for letter in letters if letter in axes), None)
            rows = None if letter is None or not piece.is_part else _rows(axes, letter, piece)
            for name, parameter in list(owner.named_parameters(recurse=False)):
                setattr(owner, name, self._leaf(parameter, rows, piece))
            if rows is not None and letter is not None:
                _set(owner, "row_axes", axes | {letter: rows.length})
            if piece.cut == "channels" and piece.is_part:
                _narrow_channels(owner, piece)
            if piece.cut == "planes" and hasattr(owner, "slab"):
                _set(owner, "slab", True)
        return replace(stage, module=module)

    def _leaf(self, parameter: nn.Parameter, rows: Rows | None, piece: Piece) -> nn.Parameter:
        name, device = self._names[id(parameter)], piece.device
        key = (name, rows)
        shard = self._shards.get(key)
        if shard is None:
            leaf = self._new_leaf(parameter, rows, device, is_first=True)
            label = name if rows is None else f"{name}[{piece.part + 1}/{piece.parts}]"
            shard = self._shards[key] = Shard(name, label, rows, device, leaf)
            self._leaves[(*key, device)] = leaf
        elif (*key, device) not in self._leaves:
            leaf = self._new_leaf(parameter, rows, device, is_first=False)
            shard.replicas[device] = leaf
            self._leaves[(*key, device)] = leaf
        if piece.name not in shard.pieces:
            shard.pieces.append(piece.name)
        return self._leaves[(*key, device)]

    def _new_leaf(self, parameter: nn.Parameter, rows: Rows | None, device: int, *, is_first: bool) -> nn.Parameter:
        target = self._devices[device]
        if rows is None and is_first and parameter.device == target:
            return parameter
        part = parameter.detach() if rows is None else rows.of(parameter.detach())
        # Memory is shared where device and layout allow it: logical devices, and rows that lie side by side.
        shared = part.to(target).contiguous()
        return nn.Parameter(shared if rows is None else shared.flatten(0, len(rows.sizes) - 1), parameter.requires_grad)


def put(full: Tensor, shard: Shard, part: Tensor) -> None:
    """Copy a shard's tensor to its place in a whole one of the network."""
    target = full if shard.rows is None else shard.rows.of(full)
    if target.data_ptr() != part.data_ptr() or target.device != part.device:
        target.copy_(part.view(target.shape))


def take(full: Tensor, shard: Shard, part: Tensor) -> None:
    """Copy a shard's place in a whole tensor of the network to the shard's tensor."""
    source = full if shard.rows is None else shard.rows.of(full)
    if source.data_ptr() != part.data_ptr() or source.device != part.device:
        part.view(source.shape).copy_(source)


def _rows(axes: Mapping[str, int], letter: str, piece: Piece) -> Rows:
    size = axes[letter]
    start, end = size * piece.part // piece.parts, size * (piece.part + 1) // piece.parts
    return Rows(tuple(axes.values()), list(axes).index(letter), start, end - start)


def _narrow_channels(owner: nn.Module, piece: Piece) -> None:
    """Tell a module with groups, or one without weights that gives its own channels only, which part it computes."""
    groups = getattr(owner, "groups", 1)
    if isinstance(groups, int) and groups > 1:
        _set(owner, "groups", groups // piece.parts)
    elif hasattr(owner, "channel_range"):
        count = int(getattr(owner, "num_channels"))  # noqa: B009
        _set(owner, "channel_range", (count * piece.part // piece.parts, count * (piece.part + 1) // piece.parts))


def _set(owner: nn.Module, name: str, value: object) -> None:
    """Set an attribute that is neither parameter nor module, which `nn.Module` declares nothing of."""
    setattr(owner, name, value)
