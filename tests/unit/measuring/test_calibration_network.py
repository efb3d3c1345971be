"""What ranks that ask for one another take of the cores, by hand."""

from __future__ import annotations

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring.arms import ArmSpec
from hvd_r2n2.measuring.bursts import BurstTime, BurstTimes
from hvd_r2n2.measuring.calibration_network import Bursts, CalibrationRequest, NetworkCalibration
from hvd_r2n2.measuring.machine import Machine
from hvd_r2n2.measuring.messages import Done
from hvd_r2n2.measuring.result import ArmResult
from hvd_r2n2.scaling.calibration import Polling, Shared
from hvd_r2n2.training.machine_costs import Effort

MACHINE = Machine(num_devices=2, threads=1, cores=(0, 1), gpus=())
REQUEST = CalibrationRequest(
    networks=("memory",),
    ranks=(2, 4),
    rounds=1,
    warmup=1,
    largest_bytes=2**20,
    effort=Effort(1, 1.0),
    command="",
    report=lambda text: None,
)


def bursts(num_ranks: int, work_per_s: float) -> Bursts:
    """Give a round in which each rank does so much while it has nothing to average."""
    times = BurstTimes((BurstTime(0.0, 1.0, 1.0, 0),) * 4, work_per_s)
    done = Done(0.0, 1.0, 1.0, 0.0, (), 0, 0, allreduces=times)
    arm = ArmSpec(f"ranks-{num_ranks}", "allreduce", num_ranks)
    return Bursts(ArmResult(arm, (), (), 1, ((done,) * num_ranks,)))


@pytest.mark.parametrize(("slowdown", "looking"), [(1.0, 0.6), (1.6, 0.36), (2.5, 0.0), (3.0, 0.0)])
def test_cores_that_slow_each_other_down_are_no_polling(slowdown: float, looking: float) -> None:
    # One rank does 100 products a second alone; two on two cores 40 each, four 20 each.
    found = {1: bursts(1, 100.0), 2: bursts(2, 40.0), 4: bursts(4, 20.0)}
    calibration = NetworkCalibration(load_config(None, []), MACHINE, 1, REQUEST, "memory")
    shares = calibration.polling(found, slowdown)
    assert [shares[count].looking for count in (2, 4)] == pytest.approx([looking] * 2)
    # Slowdown and polling together are what was measured, or the slowdown alone where that is more.
    factor = Shared(2, slowdown).factor(2, Polling(shares[2].looking))
    assert factor == pytest.approx(max(slowdown, 100 / 40))
