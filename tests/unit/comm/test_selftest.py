"""The self-test and what the doctor makes of it, with GPUs and ranks that are played."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hvd_r2n2.comm import Alone, RankPlace, diagnosis, selftest
from hvd_r2n2.comm.selftest import SelfTest, self_test


class Recording(Alone):
    """Notes where the tensors are that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.devices.append(str(tensor.device))
        return tensor.clone()


def play_places(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    places = [RankPlace(rank, "node0", rank, (0,), tuple(seen)) for rank, seen in enumerate(gpus)]
    monkeypatch.setattr(selftest, "gather_places", lambda communicator: places)


def test_tensor_is_on_the_device_that_training_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    play_places(monkeypatch, "A")
    monkeypatch.setattr(selftest, "choose_devices", lambda *_: (torch.device("meta"),))
    communicator = Recording()
    with pytest.raises(RuntimeError, match="meta"):  # its result cannot be read
        self_test(communicator)
    assert communicator.devices == ["meta"]


def test_gpus_that_do_not_go_round_leave_the_cpu_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    play_places(monkeypatch, "A", "A")
    communicator = Recording()
    result = self_test(communicator)
    assert communicator.devices == ["cpu", "cpu"]
    assert (result.device, result.is_right) == ("cpu", True)
    assert "need 2 GPUs, 1 visible (start 1 rank(s) a host, or set train.device=cpu)" in result.complaint


@pytest.mark.parametrize("state", ["note", "problem"])
def test_complaint_is_a_note_in_a_trial_and_a_problem_in_a_launch(state: Any) -> None:
    result = SelfTest(2, "Horovod over MPI", "cpu", True, "too few GPUs", ("rank 0", "rank 1"))
    first, *places, last = diagnosis._of_self_test(result, "mpirun -np 2", state)
    assert (first.state, first.text) == ("ok", "mpirun -np 2: CPU allreduce is right, Horovod over MPI")
    assert [place.text for place in places] == ["rank 0", "rank 1"]
    assert (last.state, last.text) == (state, "training would not start so: too few GPUs")


def test_wrong_sum_is_a_problem() -> None:
    (finding,) = diagnosis._of_self_test(SelfTest(2, "Horovod", "cuda", False, "", ("a", "b")), "mpirun", "note")
    assert finding.state == "problem"
    assert finding.text == "mpirun: GPU allreduce is WRONG, Horovod"


def test_ready_line_starts_no_more_ranks_than_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, start in ((0, "horovodrun -np 2 "), (1, ""), (2, "horovodrun -np 2 ")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert diagnosis.start_command() == f"{start}python -m hvd_r2n2.train"
