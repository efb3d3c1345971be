"""Every command that draws checks the picture's name before it does anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hvd_r2n2 import benchmark, gather
from hvd_r2n2.measuring import scale_command


def begun(*unused: Any) -> NoReturn:
    pytest.fail("the command began before it had checked the picture")


@pytest.mark.parametrize(
    ("main", "words"),
    [
        *((benchmark.main, (name,)) for name in ("device", "split", "ranks", "data")),
        (gather.main, ("run",)),
        (scale_command.scale, ("--device", "h100")),
    ],
)
@pytest.mark.parametrize("name", ["picture.xyz", "picture"])
def test_a_picture_of_no_known_format_is_refused_at_once(
    main: Callable[[Sequence[str]], None],
    words: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "load_config", begun)
    monkeypatch.setattr(scale_command, "load_config", begun)
    monkeypatch.setattr(gather, "read_runs", begun)
    path = tmp_path / name
    with pytest.raises(ValueError, match=r"cannot be drawn: .* \(\.png, \.svg or \.pdf is needed\)$") as found:
        main([*words, "--picture", str(path)])
    assert str(found.value).startswith(f"{path} ")
