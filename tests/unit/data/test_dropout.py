"""Dropout masks: functions of seed, epoch and sample alone."""

import numpy as np
import pytest
import torch

from hvd_r2n2.data.dropout import draw_masks
from hvd_r2n2.data.random_numbers import Purpose, raw_numbers

WIDTHS = {"dropout6": 100, "dropout7": 64}


def test_a_mask_is_the_bits_of_the_samples_own_random_numbers() -> None:
    masks = draw_masks(3, [0, 5], [7, 2], WIDTHS)
    for row, (epoch, sample) in enumerate([(0, 7), (5, 2)]):
        # 100 features take two words of 64 bits, of which the bytes are taken lowest first and each from its top bit.
        words = [int(word) for word in raw_numbers(Purpose.DROPOUT, 3, epoch, sample, 3)]
        bits = [word >> (8 * byte + 7 - bit) & 1 for word in words for byte in range(8) for bit in range(8)]
        assert masks["dropout6"][row].tolist() == bits[:100]
        assert masks["dropout7"][row].tolist() == bits[128:]


def test_a_row_does_not_depend_on_the_other_samples() -> None:
    whole = draw_masks(1, [0, 0, 1, 1], [4, 5, 4, 6], WIDTHS)
    for row, (epoch, sample) in enumerate([(0, 4), (0, 5), (1, 4), (1, 6)]):
        alone = draw_masks(1, [epoch], [sample], WIDTHS)
        for name in WIDTHS:
            assert torch.equal(alone[name][0], whole[name][row])


def test_masks_differ_between_seeds_epochs_samples_and_layers() -> None:
    widths = {"dropout6": 256, "dropout7": 256}
    keys = [(seed, epoch, sample) for seed in (0, 1) for epoch in (0, 1) for sample in (0, 1)]
    drawn = [draw_masks(seed, [epoch], [sample], widths)[name] for seed, epoch, sample in keys for name in widths]
    assert len({mask.numpy().tobytes() for mask in drawn}) == 16


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_half_of_the_features_are_kept_on_average_each_by_itself(seed: int) -> None:
    (mask_BF,) = draw_masks(seed, [0] * 4000, range(4000), {"mask": 70}).values()
    assert set(np.unique(mask_BF)) == {0, 1}
    kept_BF = mask_BF.double()
    assert (kept_BF.mean(dim=0) - 0.5).abs().max() < 0.035  # 4.4 standard deviations
    correlation_FF = torch.corrcoef(kept_BF.T) - torch.eye(70)
    assert correlation_FF.abs().max() < 0.085  # 5.4 standard deviations
