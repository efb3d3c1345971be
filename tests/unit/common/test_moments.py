"""Moments of a CPU are those of the host's clock; those of GPUs are tested in tests/gpu."""

from __future__ import annotations

import time

import torch

from hvd_r2n2.common.moments import moment, seconds_between

CPU = torch.device("cpu")


def test_time_between_moments_of_a_cpu_is_the_hosts() -> None:
    before_s, start = time.perf_counter(), moment(CPU)
    time.sleep(0.01)
    end, after_s = moment(CPU), time.perf_counter()
    assert 0.01 <= seconds_between(start, end) <= after_s - before_s
