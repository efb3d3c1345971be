"""The spatial strategy's programs: who reads which planes and samples, and that their arithmetic is one device's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.split.program import Call, Fragment, Key, Program, Range
from hvd_r2n2.split.spatial import check_spatial, spatial_program
from tests.split.interpreter import assert_one_devices_numbers
from tests.split.lists import check_common, forward_table, planes, stage
from tests.split.networks import reconstruction, reconstruction_inputs
from tests.split.toys import Dense, MeanSquare


class Planes(nn.Module):
    """Says how many planes a grid has."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count))
        self.row_axes = {"D": count}


VOLUME = (
    stage("conv", ["images:VBCHW"], ["conv:VBCHW"]),
    stage("fc", ["conv:VBCHW", "images:VBCHW"], ["features:VBF"]),
    stage("project", ["features:VBF"], ["x:VBCDHW"], Planes(4)),
    stage("gates", ["x:VBCDHW", planes("hidden:BCDHW", 1, 1), "hidden:BCDHW"], ["gated:BCDHW"]),
    stage("new", ["x:VBCDHW", planes("gated:BCDHW", 1, 1), "hidden:BCDHW"], ["hidden:BCDHW"]),
    stage("up", [planes("hidden:BCDHW", 0, 1), "hidden:BCDHW"], ["logits:BCDHW"]),
    stage("loss", ["logits:BCDHW", "occupancy:BDHW"], ["loss:"]),
)


def test_reads_of_a_recurrent_network_by_hand() -> None:
    program = spatial_program(VOLUME, 2, (2,), 2)
    assert forward_table(program) == [
        "0 conv…fc[0] m0 v0: images@0(B 0/2)",
        "1 conv…fc[1] m0 v0: images@0(B 1/2)",
        "0 project[0] m0 v0: features0@0+features1@0 on B",
        "1 project[1] m0 v0: features0@0+features1@0 on B",
        "0 gates[0] m0 v0: x0@0(V 0,1), -, -",
        "1 gates[1] m0 v0: x1@0(V 0,1), -, -",
        "0 new[0] m0 v0: x0@0(V 0,1), 0(D 0,1)+gated0@0+gated1@0(D 0,1) on D, -",
        "1 new[1] m0 v0: x1@0(V 0,1), gated0@0(D -1,1)+gated1@0+0(D 0,1) on D, -",
        "0 gates[0] m0 v1: x0@0(V 1,1), 0(D 0,1)+hidden0@0+hidden1@0(D 0,1) on D, hidden0@0",
        "1 gates[1] m0 v1: x1@0(V 1,1), hidden0@0(D -1,1)+hidden1@0+0(D 0,1) on D, hidden1@0",
        "0 new[0] m0 v1: x0@0(V 1,1), 0(D 0,1)+gated0@1+gated1@1(D 0,1) on D, hidden0@0",
        "1 new[1] m0 v1: x1@0(V 1,1), gated0@1(D -1,1)+gated1@1+0(D 0,1) on D, hidden1@0",
        "0 up[0] m0: hidden0@1+hidden1@1(D 0,1) on D, hidden0@1",
        "1 up[1] m0: hidden1@1+0(D 0,1) on D, hidden1@1",
        "0 loss[0] m0: logits0, occupancy(D 0/2)",
        "1 loss[1] m0: logits1, occupancy(D 1/2)",
    ]
    assert [call.outputs for call in program.calls[:2]] == [(Key("features", 0, 0, 0),), (Key("features", 0, 0, 1),)]


@pytest.mark.parametrize(
    ("samples", "num_views", "axis"),
    [(4, 1, "B"), (4, 2, "B"), (3, 2, "V"), (1, 4, "V"), (3, 3, "B"), (3, 1, "B"), (1, 3, "V"), (1, 1, None)],
)
def test_samples_are_cut_along_the_axis_that_gives_equal_shares(samples: int, num_views: int, axis: str | None) -> None:
    table = forward_table(spatial_program(VOLUME, 2, (samples,), num_views))
    if axis is None:
        assert table[:3] == [
            "0 conv…fc[0] m0 v0: images@0",
            "0 project[0] m0 v0: features0@0",
            "1 project[1] m0 v0: features0@0",
        ]
        return
    assert table[:4] == [
        f"0 conv…fc[0] m0 v0: images@0({axis} 0/2)",
        f"1 conv…fc[1] m0 v0: images@0({axis} 1/2)",
        f"0 project[0] m0 v0: features0@0+features1@0 on {axis}",
        f"1 project[1] m0 v0: features0@0+features1@0 on {axis}",
    ]


def test_a_fold_finds_its_view_where_views_are_cut() -> None:
    stages = (
        stage("a", ["x:VBF"], ["a:VBF"]),
        stage("fold", ["a:VBF", "x:VBF", "h:BCDHW"], ["h:BCDHW"], Planes(2)),
        stage("loss", ["h:BCDHW"], ["loss:"]),
    )
    assert forward_table(spatial_program(stages, 2, (1,), 3))[2:8] == [
        "0 fold[0] m0 v0: a0@0(V 0,1), x@0(V 0,1), -",
        "1 fold[1] m0 v0: a0@0(V 0,1), x@0(V 0,1), -",
        "0 fold[0] m0 v1: a1@0(V 0,1), x@0(V 1,1), h0@0",
        "1 fold[1] m0 v1: a1@0(V 0,1), x@0(V 1,1), h1@0",
        "0 fold[0] m0 v2: a1@0(V 1,1), x@0(V 2,1), h0@1",
        "1 fold[1] m0 v2: a1@0(V 1,1), x@0(V 2,1), h1@1",
    ]


def test_micro_batches_may_be_cut_along_different_axes() -> None:
    program = spatial_program(VOLUME, 2, (2, 1), 1)
    check_common(program)
    pieces = {call.piece for call in program.calls}
    assert [call.name for call in program.calls if call.piece.cut == "samples"] == [
        "conv…fc[0] m0 v0",
        "conv…fc[1] m0 v0",
        "conv…fc[0] m1 v0",
    ]
    assert len(pieces) == 2 * 6


def test_every_slabs_loss_counts_by_its_planes_and_samples() -> None:
    program = spatial_program(VOLUME, 2, (3, 1), 1)
    weights = {call.name: call.weight for call in program.calls if call.weight}
    assert weights == {"loss[0] m0": 0.375, "loss[1] m0": 0.375, "loss[0] m1": 0.125, "loss[1] m1": 0.125}


@pytest.mark.parametrize(("num_devices", "num_views"), list(itertools.product((1, 2, 4), (1, 2, 3, 4, 5))))
@pytest.mark.parametrize("micro_batches", [(1,), (2, 1), (4, 3, 1)])
def test_every_plane_and_sample_is_read_where_it_should_be(
    num_devices: int, num_views: int, micro_batches: tuple[int, ...]
) -> None:
    program = spatial_program(VOLUME, num_devices, micro_batches, num_views)
    check_common(program)
    _Positions(program, planes=4).check()


class _Positions:
    """Follow positions instead of values: of each part, the planes (x, gated, ...) or (view, sample) pairs it holds."""

    def __init__(self, program: Program, planes: int) -> None:
        self.program, self.planes = program, planes
        self.parts: dict[Key, list[tuple[int, ...]]] = {}

    def check(self) -> None:
        held: dict[tuple[str, int, int | None], list[tuple[int, ...]]] = {}
        for call in self.program.calls:
            read = self._read_samples(call) if call.piece.cut == "samples" else self._read_planes(call)
            for key in call.outputs:
                self.parts[key] = read
                held.setdefault((key.tensor, key.micro_batch, key.chunk), []).extend(read)
        for (tensor, micro_batch, _), positions in held.items():
            everything = [(plane,) for plane in range(self.planes)]
            if tensor == "features":
                everything = self._samples(micro_batch)
            assert sorted(positions) == everything, f"{tensor} is not covered once"

    def _samples(self, micro_batch: int) -> list[tuple[int, ...]]:
        (num_views,) = self.program.chunks
        return list(itertools.product(range(num_views), range(self.program.micro_batches[micro_batch])))

    def _read_samples(self, call: Call) -> list[tuple[int, ...]]:
        ((fragment,),) = (entry.fragments for entry in call.inputs)
        samples = self._samples(call.micro_batch)
        if fragment.span is None:
            return samples
        assert not isinstance(fragment.span, Range)
        column = "VB".index(fragment.axis or "")
        size = max(position[column] for position in samples) + 1
        part, parts = fragment.span.part, fragment.span.parts
        first, last = size * part // parts, size * (part + 1) // parts
        return [position for position in samples if first <= position[column] < last]

    def _read_planes(self, call: Call) -> list[tuple[int, ...]]:
        slab = self.planes // call.piece.parts
        first = slab * call.piece.part
        own = list(range(first, first + slab))
        (name,) = call.piece.stages
        (stage_of_call,) = [one for one in VOLUME if one.name == name]
        for read, entry in zip(stage_of_call.inputs, call.inputs, strict=True):
            before, after = read.planes
            if entry.tensor.name == "features":
                found = [self.parts[fragment.key or Key("", 0)] for fragment in entry.fragments]
                column = "VB".index(entry.axis or "B")
                sides = [[position[column] for position in part] for part in found]
                assert all(max(one) < min(other) for one, other in itertools.pairwise(sides)), "another order"
                assert sorted(itertools.chain(*found)) == self._samples(call.micro_batch)
            elif entry.fragments:
                wanted = [p if 0 <= p < self.planes else None for p in range(first - before, first + slab + after)]
                assert [plane for fragment in entry.fragments for plane in self._planes_of(fragment)] == wanted
        return [(plane,) for plane in own]

    def _planes_of(self, fragment: Fragment) -> list[int | None]:
        if fragment.axis == "V":
            return [plane for (plane,) in self.parts[fragment.key or Key("", 0)]]
        if fragment.key is None:
            assert isinstance(fragment.span, Range)
            return [None] * fragment.span.length
        known = [plane for (plane,) in self.parts.get(fragment.key, [(plane,) for plane in range(self.planes)])]
        if fragment.span is None:
            return list(known)
        assert fragment.axis == "D"
        if isinstance(fragment.span, Range):
            start = fragment.span.start % len(known)
            return list(known[start : start + fragment.span.length])
        part, parts = fragment.span.part, fragment.span.parts
        return list(known[len(known) * part // parts : len(known) * (part + 1) // parts])


class Projection(nn.Linear):
    """VBF to VBCDHW with H = W = 1."""

    def __init__(self, num_features: int, channels: int, num_planes: int) -> None:
        super().__init__(num_features, channels * num_planes)
        self.row_axes = {"C": channels, "D": num_planes}

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).view(*features.shape[:2], *self.row_axes.values(), 1, 1)


class PlaneConv(nn.Conv3d):
    """tanh of a convolution along D that reaches `before` and `after`, which need not be the same."""

    slab = False

    def __init__(self, channels: int, before: int, after: int) -> None:
        super().__init__(channels, channels, (before + 1 + after, 1, 1))
        self.border = (0, 0, 0, 0, before, after)

    def forward(self, grid: Tensor, own: Tensor | None = None) -> Tensor:
        outputs = torch.tanh(super().forward(grid if self.slab else F.pad(grid, self.border)))
        return outputs if own is None else outputs + own


class PlaneUnit(PlaneConv):
    """h' = tanh(conv(h) + b) + x."""

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        if hidden is None:
            hidden = F.pad(torch.zeros_like(x), self.border if self.slab else (0, 0))
        return super().forward(hidden, x)


class Double(nn.Module):
    """Every plane twice."""

    def forward(self, grid: Tensor) -> Tensor:
        return grid.repeat_interleave(2, dim=2)


def _volume_network(reach: tuple[int, int], planes_of_grid: int, seed: int) -> tuple[nn.ModuleDict, tuple[Stage, ...]]:
    torch.manual_seed(seed)
    modules = nn.ModuleDict(
        {
            "a": Dense(3, 4),
            "b": Dense(4, 4),
            "project": Projection(4, 2, planes_of_grid),
            "unit": PlaneUnit(2, *reach),
            "twice": Double(),
            "head": PlaneConv(2, *reversed(reach)),
        }
    ).double()
    stages = (
        stage("a", ["x:VBF"], ["a:VBF"], modules["a"]),
        stage("b", ["a:VBF", "a:VBF"], ["b:VBF"], modules["b"]),
        stage("project", ["b:VBF"], ["p:VBCDHW"], modules["project"]),
        stage("unit", ["p:VBCDHW", planes("h:BCDHW", *reach)], ["h:BCDHW"], modules["unit"]),
        stage("double", ["h:BCDHW"], ["d:BCDHW"], modules["twice"]),
        stage("head", [planes("d:BCDHW", *reversed(reach)), "d:BCDHW"], ["y:BCDHW"], modules["head"]),
        stage("loss", ["y:BCDHW", "t:BCDHW"], ["loss:"], MeanSquare()),
    )
    return modules, stages


@settings(max_examples=40, deadline=None)
@given(
    reach=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    num_devices=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    num_views=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_any_volume_has_one_devices_numbers(
    reach: tuple[int, int], num_devices: int, sizes: list[int], num_views: int, seed: int
) -> None:
    grid = 2 * num_devices
    model, stages = _volume_network(reach, grid, seed)
    inputs = {
        "x": torch.randn(num_views, sum(sizes), 3, dtype=torch.float64),
        "t": torch.randn(sum(sizes), 2, 2 * grid, 1, 1, dtype=torch.float64),
    }
    program = spatial_program(stages, num_devices, sizes, num_views)
    check_common(program)
    values = assert_one_devices_numbers(program, model, stages, inputs)
    parts = [values[Key("y", 0, None, part)] for part in range(num_devices)]
    first = {"x": inputs["x"][:, : sizes[0]], "t": inputs["t"][: sizes[0]]}
    torch.testing.assert_close(torch.cat(parts, 2), run_stages(stages, first, {"y"})["y"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["3d-gru-1", "3d-lstm-3", "res3d-gru-3"])
@pytest.mark.parametrize("num_devices", [2, 4])
def test_networks_have_one_devices_numbers(name: str, num_devices: int) -> None:
    model, stages = reconstruction(name)
    program = spatial_program(stages, num_devices, (2, 1), 2)
    check_common(program)
    assert_one_devices_numbers(program, model, stages, reconstruction_inputs(2, 3))


def test_planes_that_do_not_divide_are_refused() -> None:
    _, stages = _volume_network((1, 1), 4, 0)
    message = r"spatial split of project over 3 devices: 4 planes are not divisible by 3 \(use 1, 2 or 4\)"
    with pytest.raises(ValueError, match=message):
        spatial_program(stages, 3, (3,), 1)
    unknown = [stage("project", ["features:VBF"], ["x:VBCDHW"]) if one.name == "project" else one for one in VOLUME]
    with pytest.raises(ValueError, match=r"no stage says how many planes its grid has .give a module row_axes with D"):
        check_spatial(unknown, 2)


def test_reads_beyond_the_neighbour_are_refused() -> None:
    _, stages = _volume_network((0, 2), 4, 0)
    check_spatial(stages, 1)
    check_spatial(stages, 2)
    message = r"spatial split of unit over 4 devices: it reads 2 planes of its neighbour, which may have only 1 "
    with pytest.raises(ValueError, match=message + r"\(use 1 or 2\)"):
        check_spatial(stages, 4)


def test_networks_without_a_volume_are_refused() -> None:
    stages = (
        stage("conv1", ["images:BCHW"], ["conv1:BCHW"]),
        stage("fc8", ["conv1:BCHW"], ["logits:BF"]),
        stage("loss", ["logits:BF", "labels:B"], ["loss:"]),
    )
    with pytest.raises(ValueError, match=r"spatial split: the network has no volume, none of the stages conv1 to fc8"):
        spatial_program(stages, 2, (2,), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("up", ["hidden:BCDHW"], ["logits:BF"]), r"spatial split of up: it neither gives grids nor treats each view"),
        (("project", ["features:VBF", planes("z:VBCDHW", 1, 0)], ["x:VBCDHW"]), r"what it reads of z .* is no range"),
        (("gates", [planes("x:VBCDHW", 1, 0), "hidden:BCDHW"], ["gated:BCDHW"]), r"what it reads of x .* is no range"),
        (("gates", ["y:VBCDHW", "hidden:BCDHW"], ["gated:BCDHW"]), r"what it reads of y .* is no range"),
        (("loss", ["features:VBF"], ["loss:"]), r"spatial split of loss: it reads features, which has no planes"),
    ],
)
def test_what_cannot_be_cut_is_refused(changed: tuple[str, list[object], list[str]], message: str) -> None:
    stages = [stage(*changed, one.module) if one.name == changed[0] else one for one in VOLUME]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        spatial_program(stages, 2, (2,), 2)
