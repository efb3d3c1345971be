"""Which cores and GPUs each rank gets, for the hosts there are in the world."""

from __future__ import annotations

import os
import socket

import pytest
import torch

from hvd_r2n2.comm import Alone, RankPlace, choose_devices, gather_places, named_devices, share_of_cores


def places(
    ranks: int,
    *,
    gpus: int = 0,
    seen: list[str] | None = None,
    cores: list[tuple[int, ...]] | None = None,
    ranks_per_host: int | None = None,
) -> list[RankPlace]:
    """Ranks on hosts of `gpus` GPUs that all of them see, or with one letter a GPU that each of them sees."""
    per_host = ranks_per_host or ranks
    return [
        RankPlace(
            rank=rank,
            host=f"node{rank // per_host}",
            local_rank=rank % per_host,
            cores=cores[rank] if cores else tuple(range(8)),
            gpus=tuple(seen[rank]) if seen else tuple("ABCDEFGH"[:gpus]),
        )
        for rank in range(ranks)
    ]


def names(requested: str, every: list[RankPlace], per_rank: int) -> list[list[str]]:
    return [[str(device) for device in choose_devices(requested, place, every, per_rank)] for place in every]


def test_ranks_that_may_run_on_the_same_cores_share_them() -> None:
    every = places(3)
    assert [share_of_cores(place, every) for place in every] == [2, 2, 2]


def test_rank_bound_to_its_own_cores_uses_them_all() -> None:
    every = places(2, cores=[(0, 1, 2), (3, 4, 5)])
    assert [share_of_cores(place, every) for place in every] == [3, 3]


def test_ranks_of_another_host_do_not_count() -> None:
    every = places(4, ranks_per_host=2)
    assert [share_of_cores(place, every) for place in every] == [4, 4, 4, 4]


def test_there_is_always_one_thread() -> None:
    every = places(20)
    assert share_of_cores(every[0], every) == 1


def test_gpus_of_a_host_go_round() -> None:
    assert names("auto", places(2, gpus=4), 2) == [["cuda:0", "cuda:1"], ["cuda:2", "cuda:3"]]
    assert names("auto", places(2, gpus=2), 1) == [["cuda:0"], ["cuda:1"]]
    assert names("cuda", places(4, gpus=2, ranks_per_host=2), 1) == [["cuda:0"], ["cuda:1"], ["cuda:0"], ["cuda:1"]]


def test_gpus_that_the_scheduler_gave_each_rank_are_its_own() -> None:
    assert names("auto", places(2, seen=["AB", "CD"]), 2) == [["cuda:0", "cuda:1"]] * 2
    assert names("auto", places(2, seen=["A", "B"]), 1) == [["cuda:0"], ["cuda:0"]]
    assert names("auto", places(2, seen=["A", "B"]), 2) == [["cuda:0", "cuda:0"]] * 2


def test_two_ranks_never_get_the_same_gpu() -> None:
    for per_rank in (1, 2):
        with pytest.raises(
            ValueError, match=rf"node0: 2 rank\(s\) of {per_rank} device\(s\) need {2 * per_rank} GPUs, 1"
        ):
            choose_devices("auto", places(2, seen=["A", "A"])[1], places(2, seen=["A", "A"]), per_rank)
    for seen in (["AB", "BC"], ["AB", "BA"], ["A", "AB"]):
        every = places(2, seen=seen)
        with pytest.raises(ValueError, match="node0: its ranks see some GPUs in common and some not"):
            choose_devices("auto", every[0], every)


def test_ranks_of_two_hosts_may_see_gpus_of_the_same_name() -> None:
    assert names("auto", places(2, seen=["A", "A"], ranks_per_host=1), 1) == [["cuda:0"], ["cuda:0"]]


def test_rank_alone_with_one_gpu_has_both_halves_on_it() -> None:
    assert names("auto", places(1, gpus=1), 2) == [["cuda:0", "cuda:0"]]


def test_no_gpu_means_the_cpu_unless_one_is_demanded() -> None:
    assert choose_devices("auto", places(1)[0], places(1)) == (torch.device("cpu"),)
    assert choose_devices("cpu", places(1, gpus=2)[0], places(1, gpus=2)) == (torch.device("cpu"),)
    with pytest.raises(ValueError, match=r"train\.device=cuda, but rank 0 on node0 sees no GPU"):
        choose_devices("cuda", places(1)[0], places(1))
    every = places(2, seen=["A", ""])
    with pytest.raises(ValueError, match="other ranks see GPUs, but rank 1 on node0 sees no GPU"):
        choose_devices("auto", every[1], every)


def test_gpus_that_do_not_go_round_are_an_error() -> None:
    every = places(4, gpus=2)
    with pytest.raises(ValueError, match=r"4 rank\(s\) of 1 device\(s\) need 4 GPUs, 2 visible \(start 2 rank"):
        choose_devices("auto", every[0], every)
    with pytest.raises(ValueError, match="need 8 GPUs"):
        choose_devices("auto", every[0], every, 2)


def test_named_gpus_are_taken_where_no_other_rank_of_the_host_has_them() -> None:
    for every in (
        places(3, seen=["AB", "CD", "AB"], ranks_per_host=2),  # two ranks on one host and one on another
        places(2, seen=["AB", "A"], ranks_per_host=1),
        places(1, gpus=2),
    ):
        devices = named_devices(("cuda:1", "cuda:0"), every[0], every)
        assert devices == (torch.device("cuda:1"), torch.device("cuda:0"))
    assert named_devices(("cuda:0", "cuda:0"), places(1, gpus=1)[0], places(1, gpus=1)) == (torch.device("cuda:0"),) * 2
    for seen in (["AB", "AB"], ["AB", "BC"], ["AB", "B"]):
        every = places(2, seen=seen)
        with pytest.raises(ValueError, match=r"split\.devices: cuda:0, cuda:1 are shared by several ranks"):
            named_devices(("cuda:0", "cuda:1"), every[0], every)


def test_named_gpu_that_is_not_there_is_an_error() -> None:
    for gpus, seen in ((0, "this rank sees no GPU"), (1, "this rank sees cuda:0 to cuda:0")):
        every = places(1, gpus=gpus)
        with pytest.raises(ValueError, match=rf"split\.devices: cuda:7 does not exist \({seen}\)"):
            named_devices(("cuda:7", "cuda:7"), every[0], every)


def test_named_parts_of_the_cpu_are_the_cpu() -> None:
    every = places(2)
    assert named_devices(("cpu:0", "cpu:1"), every[1], every) == (torch.device("cpu"),) * 2


def test_place_is_gathered_here() -> None:
    (place,) = gather_places(Alone())
    assert (place.rank, place.host, place.local_rank) == (0, socket.gethostname(), 0)
    assert len(place.gpus) == torch.cuda.device_count() == len(set(place.gpus))
    assert set(place.cores) == os.sched_getaffinity(0)
