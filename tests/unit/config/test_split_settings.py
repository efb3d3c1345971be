"""Settings of a split that cannot be, or that nothing would come of, are refused when they are loaded."""

from __future__ import annotations

import pytest

from hvd_r2n2.config import load_config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split.cut=[decoder.block7]"],
            "split.cut: would be ignored, it only goes with split.strategy=pipeline",
        ),
        (
            ["split.strategy=kernel", "split.view_chunks=2"],
            "split.view_chunks: would be ignored, it only goes with split.strategy=pipeline",
        ),
        (
            ["split.strategy=auto", "split.schedule=1f1b"],
            "split.schedule: would be ignored, it only goes with split.strategy=pipeline",
        ),
        (
            ["split.strategy=pipeline", "split.cross=[conv3]"],
            "split.cross: would be ignored, it only goes with split.strategy=kernel",
        ),
        (
            ["split.micro_batches=2"],
            "split.micro_batches: would be ignored, it only goes with a split.strategy other than none",
        ),
        (
            ["split.devices=[cpu:0,cpu:1]"],
            "split.devices: would be ignored, it only goes with a split.strategy other than none",
        ),
        (["split.strategy=kernel", "split.micro_batches=0"], r"split.micro_batches: 0 is not possible \(1 or more\)"),
        (["split.strategy=kernel", "split.hang_timeout_s=0"], "split.hang_timeout_s: 0.0 is not possible"),
        (
            ["split.strategy=kernel", "split.micro_batches=25"],
            "split.micro_batches: 25 is more than train.batch_size / train.accumulation = 24 samples",
        ),
        (
            ["split.strategy=kernel", "split.micro_batches=2", "split.micro_batch_sizes=[12,12]"],
            "split.micro_batch_sizes: stands for split.micro_batches, not beside it",
        ),
        (
            ["split.strategy=kernel", "split.micro_batch_sizes=[0,24]"],
            r"split.micro_batch_sizes: \[0, 24\] is not possible \(1 or more samples each\)",
        ),
        (["split.strategy=kernel", "split.micro_batch_sizes=[]"], r"split.micro_batch_sizes: \[\] is not possible"),
        (
            ["split.strategy=kernel", "split.micro_batch_sizes=[3,4]"],
            r"split.micro_batch_sizes: \[3, 4\] add up to 7, which is no rank's share of train.batch_size / "
            "train.accumulation = 24 samples",
        ),
        (
            ["split.strategy=kernel", "split.cross=[conv3]", "model.cross=[conv4]"],
            r"split.cross: sets model.cross, which is \('conv4',\) already",
        ),
        (
            ["split.strategy=kernel", "split.devices=[gpu:0,gpu:1]"],
            r"split.devices: \['gpu:0', 'gpu:1'\] is not possible",
        ),
        (["split.strategy=kernel", "split.devices=[cpu:0,cuda:0]"], "split.devices: .* is not possible"),
        (["split.strategy=kernel", "split.devices=[cuda,cuda]"], "split.devices: .* is not possible"),
        (["split.strategy=kernel", "split.devices=[]"], "split.devices: .* is not possible"),
        (
            ["split.strategy=kernel", "split.devices=[cpu:0,cpu:1]", "train.device=cuda"],
            r"split.devices: \['cpu:0', 'cpu:1'\], but train.device=cuda",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["split.strategy=pipeline", "split.cut=[decoder.block7]", "split.micro_batches=8", "split.view_chunks=3"],
        ["split.strategy=pipeline", "split.micro_batch_sizes=[1,3,4,3,1]"],  # of 2 ranks
        ["split.strategy=auto", "split.micro_batches=4", "split.devices=[cuda:0,cuda:0]"],
        ["model.name=alexnet", "split.strategy=kernel", "split.cross=[conv3]"],
        ["model.name=alexnet", "split.strategy=kernel", "split.cross=[conv3]", "model.cross=[conv3]"],
    ],
)
def test_settings_that_go_together_are_taken(overrides: list[str]) -> None:
    load_config(None, overrides)
