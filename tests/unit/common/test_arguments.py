"""Arguments of commands: what is not possible is said with the argument's name."""

from __future__ import annotations

import argparse

import pytest

from hvd_r2n2.common.arguments import count


def test_a_count_is_a_whole_number() -> None:
    assert count("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²"])
def test_what_is_no_count_is_said_with_what_would_be_right(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=count)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([f"--ranks={text}"])
    assert f"argument --ranks: {text} is not possible (a whole number, 1 or more)" in capsys.readouterr().err
