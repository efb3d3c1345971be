"""A Python in which Horovod is not installed, as far as anything that runs there can tell."""

from __future__ import annotations

import os
from pathlib import Path

# Python imports a module of this name at its start, before anything else.
_SITE_CUSTOMIZE = '''
import sys

class WithoutHorovod:
    """A finder that does not find Horovod."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "horovod" else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [WithoutHorovod(finder) for finder in sys.meta_path]
'''


def environment_without_horovod(folder: Path) -> dict[str, str]:
    """Return the variables that hide Horovod from a process and its children; `folder` takes a file for it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE_CUSTOMIZE)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
