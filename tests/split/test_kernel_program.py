"""The kernel strategy's programs: who reads which channels, and that their arithmetic is one device's."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hvd_r2n2.common.stages import Read, Stage
from hvd_r2n2.split.kernel import check_kernel, kernel_program
from hvd_r2n2.split.program import Call, Key, Range
from tests.split.interpreter import assert_one_devices_numbers
from tests.split.lists import check_common, forward_table, named, own, stage
from tests.split.networks import classification, classification_inputs, reconstruction, reconstruction_inputs
from tests.split.toys import LOSS, Dense, MeanSquare, Toy

GRU = (
    stage("a", ["images:VBCHW"], ["a:VBCHW"]),
    stage("b", ["a:VBCHW", own("a:VBCHW")], ["b:VBCHW"]),
    stage("gates", [own("b:VBCHW"), "hidden:BCHW", own("hidden:BCHW")], ["update:BCHW", "reset:BCHW"]),
    stage("new", [own("b:VBCHW"), "reset:BCHW", own("update:BCHW"), own("hidden:BCHW")], ["hidden:BCHW"]),
    stage("head", ["hidden:BCHW"], ["logits:BF"]),
    stage("loss", ["logits:BF", "labels:B"], ["loss:"]),
)


def test_reads_of_a_recurrent_network_by_hand() -> None:
    assert forward_table(kernel_program(GRU, 2, (3,), 2)) == [
        "0 a[0] m0 v0: images@0",
        "1 a[1] m0 v0: images@0",
        "0 b[0] m0 v0: a0@0+a1@0 on C, a0@0",
        "1 b[1] m0 v0: a0@0+a1@0 on C, a1@0",
        "0 gates[0] m0 v0: b0@0(V 0,1), -, -",
        "1 gates[1] m0 v0: b1@0(V 0,1), -, -",
        "0 new[0] m0 v0: b0@0(V 0,1), reset0@0+reset1@0 on C, update0@0, -",
        "1 new[1] m0 v0: b1@0(V 0,1), reset0@0+reset1@0 on C, update1@0, -",
        "0 gates[0] m0 v1: b0@0(V 1,1), hidden0@0+hidden1@0 on C, hidden0@0",
        "1 gates[1] m0 v1: b1@0(V 1,1), hidden0@0+hidden1@0 on C, hidden1@0",
        "0 new[0] m0 v1: b0@0(V 1,1), reset0@1+reset1@1 on C, update0@1, hidden0@0",
        "1 new[1] m0 v1: b1@0(V 1,1), reset0@1+reset1@1 on C, update1@1, hidden1@0",
        "0 head[0] m0: hidden0@1+hidden1@1 on C",
        "1 head[1] m0: hidden0@1+hidden1@1 on C",
        "1 loss m0: logits0+logits1 on F, labels",
    ]


def test_reads_of_a_network_with_towers_by_hand() -> None:
    stages = (
        stage("conv1", ["images:BCHW"], ["conv1:BCHW"]),
        stage("conv2", [Read(named("conv1:BCHW"), "group")], ["conv2:BCHW"]),
        stage("fc", ["conv2:BCHW", own("dropout:BF")], ["fc:BF"]),
        stage("pair", [Read(named("images:BCHW"), "group"), own("fc:BF")], ["logits:BF"]),
        stage("loss", ["logits:BF", "labels:B"], ["loss:"]),
    )
    assert forward_table(kernel_program(stages, 2, (1,), 1)) == [
        "0 conv1[0] m0: images",
        "1 conv1[1] m0: images",
        "0 conv2[0] m0: conv10",
        "1 conv2[1] m0: conv11",
        "0 fc[0] m0: conv20+conv21 on C, dropout(F 0/2)",
        "1 fc[1] m0: conv20+conv21 on C, dropout(F 1/2)",
        "0 pair[0] m0: images, fc0",
        "1 pair[1] m0: images, fc1",
        "1 loss m0: logits0+logits1 on F, labels",
    ]


def test_orders_take_one_micro_batch_after_another() -> None:
    program = kernel_program((GRU[4], GRU[5]), 2, (3, 1), 1)
    names = [
        [("B " if t.kind == "backward" else "F ") + program.calls[t.call].name for t in order]
        for order in program.orders
    ]
    assert names == [
        ["F head[0] m0", "B head[0] m0", "F head[0] m1", "B head[0] m1"],
        [f"{task} m{micro_batch}" for micro_batch in (0, 1) for task in ("F head[1]", "F loss", "B loss", "B head[1]")],
    ]
    assert [call.weight for call in program.calls if call.weight] == [0.75, 0.25]


@pytest.mark.parametrize(("num_devices", "num_views"), list(itertools.product((1, 2, 3, 4), (1, 2, 3, 4, 5))))
@pytest.mark.parametrize("micro_batches", [(1,), (2, 1), (1, 1, 1)])
def test_every_part_is_made_once_and_read_by_those_that_may(
    num_devices: int, num_views: int, micro_batches: tuple[int, ...]
) -> None:
    program = kernel_program(GRU, num_devices, micro_batches, num_views)
    check_common(program)
    assert program.chunks == (num_views,)
    expected: dict[Key, int] = {}
    for micro_batch, part in itertools.product(range(len(micro_batches)), range(num_devices)):
        for view in range(num_views):
            expected |= {Key(name, micro_batch, view, part): part for name in ("update", "reset", "hidden")}
        expected |= {Key(name, micro_batch, 0, part): part for name in ("a", "b")}
        expected |= {Key("logits", micro_batch, None, part): part, Key("loss", micro_batch): num_devices - 1}
    assert {key: program.calls[number].piece.device for key, number in program.producers.items()} == expected
    for call in program.calls:
        _check_reads(call, num_devices, num_views)


def _check_reads(call: Call, num_devices: int, num_views: int) -> None:
    """What a call may read, said once more in other words: parts by the kind of read, chunks by the tensor."""
    (read_by,) = [one for one in GRU if one.name == call.piece.stages[0]]
    view = call.chunk if read_by.name in ("gates", "new") else None
    for read, entry in zip(read_by.inputs, call.inputs, strict=True):
        name = read.tensor.name
        chunk = {"images": 0, "a": 0, "b": 0, "update": view, "reset": view, "labels": None, "logits": None}.get(
            name, num_views - 1 if view is None else view - 1
        )
        parts: list[int | None] = [call.piece.part] if read.channels == "own" else list(range(num_devices))
        if name in ("images", "labels"):
            parts = [None]
        elif name == "hidden" and chunk == -1:
            parts = []
        assert [f.key for f in entry.fragments] == [Key(name, call.micro_batch, chunk, part) for part in parts]
        span = Range(view, 1) if view is not None and name == "b" else None
        assert all(f.span == span for f in entry.fragments)
        assert entry.axis == (read.tensor.channel_axis if len(parts) > 1 else None)


@settings(max_examples=40, deadline=None)
@given(
    layers=st.tuples(st.integers(1, 3), st.integers(0, 3)),
    skips=st.frozensets(st.sampled_from([1, 2, 101, 102])),
    num_devices=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    num_views=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_any_toy_has_one_devices_numbers(
    layers: tuple[int, int],
    skips: frozenset[int],
    num_devices: int,
    sizes: list[int],
    num_views: int,
    seed: int,
) -> None:
    toy = Toy(*layers, 2 * num_devices, seed, skips)
    program = kernel_program(toy.stages(), num_devices, sizes, num_views)
    check_common(program)
    assert_one_devices_numbers(program, toy, toy.stages(), toy.inputs(num_views, sum(sizes)))


@pytest.mark.parametrize(
    ("name", "cross"),
    [
        ("3d-gru-1", None),
        ("3d-lstm-3", None),
        ("res3d-gru-3", None),
        ("3d-gru-3", ["encoder.fc7", "decoder.block11"]),
    ],
)
def test_networks_have_one_devices_numbers(name: str, cross: list[str] | None) -> None:
    model, stages = reconstruction(name, cross=cross)
    program = kernel_program(stages, 2, (2, 1), 2)
    check_common(program)
    assert_one_devices_numbers(program, model, stages, reconstruction_inputs(2, 3))


@pytest.mark.parametrize(("cross", "num_classes"), [("default", 13), (None, 10)])
def test_alexnet_has_one_devices_numbers(cross: Literal["default"] | None, num_classes: int) -> None:
    model, stages = classification(num_classes, cross=cross)
    program = kernel_program(stages, 2, (2, 1), 1)
    check_common(program)
    assert_one_devices_numbers(program, model, stages, classification_inputs(3, num_classes))


def test_the_last_layer_may_have_unequal_shares() -> None:
    model = nn.Sequential(Dense(3, 4), nn.Linear(4, 5)).double()
    stages = (
        stage("hidden", ["x:BF"], ["hidden:BF"], model[0]),
        stage("head", ["hidden:BF"], ["logits:BF"], model[1]),
        Stage("loss", MeanSquare(), (Read(named("logits:BF")), Read(named("target:BF"))), (LOSS,)),
    )
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 3).double(), "target": torch.randn(3, 5).double()}
    program = kernel_program(stages, 2, (2, 1), 1)
    check_common(program)
    assert_one_devices_numbers(program, model, stages, inputs)
    with pytest.raises(ValueError, match=r"head over 8 devices: it has only 5 outputs \(use 1, 2 or 4\)"):
        check_kernel(_with_layers(nn.Linear(8, 8), nn.Linear(8, 5)), 8)


def _with_layers(first: nn.Module, head: nn.Module | None = None) -> tuple[Stage, ...]:
    return (
        stage("decoder.block9.a", ["x:BCDHW"], ["a:BCDHW"], first),
        stage("head", ["a:BCDHW"], ["logits:BCDHW"], head),
        stage("loss", ["logits:BCDHW"], ["loss:"]),
    )


def test_channels_that_do_not_divide_are_refused() -> None:
    message = (
        r"kernel split of decoder.block9.a over 3 devices: 64 output channels are not divisible by 3 "
        r"\(use 1, 2 or 4\)"
    )
    with pytest.raises(ValueError, match=message):
        check_kernel(_with_layers(nn.Conv3d(1, 64, 1)), 3)
    with pytest.raises(ValueError, match=r"64 output features are not divisible by 3 \(use 1 or 2\)"):
        check_kernel(_with_layers(nn.Linear(1, 64), nn.Conv3d(64, 2, 1)), 3)
    check_kernel(_with_layers(nn.Conv3d(1, 64, 1)), 4)


def test_advice_holds_for_all_layers() -> None:
    first = nn.Sequential(nn.Conv3d(1, 64, 1), nn.Conv3d(64, 6, 1))
    with pytest.raises(ValueError, match=r"64 output channels are not divisible by 3 \(use 1 or 2\)"):
        check_kernel(_with_layers(first), 3)


def test_rows_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match=r"which rows of the weights of BatchNorm3d are which channels"):
        check_kernel(_with_layers(nn.BatchNorm3d(4)), 2)


def test_outputs_without_channels_are_refused() -> None:
    stages = (
        stage("mean", ["x:BC"], ["mean:B"]),
        stage("head", ["mean:B"], ["y:BF"]),
        stage("loss", ["y:BF"], ["loss:"]),
    )
    with pytest.raises(ValueError, match=r"kernel split of mean: its output mean of axes 'B' has neither channels"):
        kernel_program(stages, 2, (1,), 1)


def test_towers_need_as_many_devices() -> None:
    stages = (
        stage("conv1", ["images:BCHW"], ["conv1:BCHW"]),
        stage("conv2", [Read(named("conv1:BCHW"), "group")], ["conv2:BCHW"]),
        stage("loss", ["conv2:BCHW"], ["loss:"]),
    )
    check_common(kernel_program(stages, 1, (1,), 1))
    with pytest.raises(
        ValueError, match=r"kernel split of conv2 over 4 devices: it reads its own tower only.*use 2 dev"
    ):
        kernel_program(stages, 4, (1,), 1)


def test_own_channels_of_one_view_of_a_network_input_are_refused() -> None:
    stages = (
        stage("fold", [own("x:VBF"), own("h:BF")], ["h:BF"]),
        stage("loss", ["h:BF"], ["loss:"]),
    )
    with pytest.raises(
        ValueError, match=r"kernel split of fold: a part of the network's input x of axes 'VBF' is no range"
    ):
        kernel_program(stages, 2, (1,), 2)
