"""Names of which only some are known: which one is said to be meant."""

from __future__ import annotations

from hvd_r2n2.common.names import known_hint, nearest_hint


def test_what_is_not_known_is_said_with_the_nearest_and_all() -> None:
    assert known_hint("h10", ["h100", "a100"]) == ", did you mean h100? (known: h100, a100)"
    assert known_hint("xyz", ["h100", "a100"]) == " (known: h100, a100)"


def test_the_nearest_name_is_said_if_it_is_near_enough() -> None:
    # Three of 3 and 11 characters are alike: 2 × 3 / (3 + 11) = 0.43.
    assert nearest_hint(" (did you mean {!r}?)", "fc7", ["encoder.fc7"], cutoff=0.4) == " (did you mean 'encoder.fc7'?)"
    assert nearest_hint(" (did you mean {!r}?)", "fc7", ["encoder.fc7"]) == ""
    assert nearest_hint("; the nearest is {}", "xyz", iter(["h100"]), cutoff=0.0) == "; the nearest is h100"
    assert nearest_hint("; the nearest is {}", "xyz", [], cutoff=0.0) == ""
