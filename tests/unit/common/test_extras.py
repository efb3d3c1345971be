"""A missing library is said with the command that installs it."""

from __future__ import annotations

import importlib
from typing import NoReturn

import pytest

from hvd_r2n2.common.extras import require


@pytest.mark.parametrize(("module", "extra"), [("matplotlib.figure", "plots"), ("scipy.ndimage", "shapes")])
def test_missing_library_names_its_extra(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr(importlib, "import_module", missing)
    package = module.partition(".")[0]
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not installed.*pip install 'hvd_r2n2\[{extra}\]'"):
        require(module)


def test_library_is_imported() -> None:
    assert require("json.decoder").JSONDecoder
