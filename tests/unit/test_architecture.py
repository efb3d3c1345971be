"""Imports point one way: doors -> measuring -> training -> the middle rooms -> {config, common}."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "hvd_r2n2"
MIDDLE = {"split", "scaling", "data", "models", "telemetry", "comm"}
LEAVES = {"config", "common"}
ROOMS = {"measuring", "training", *MIDDLE, *LEAVES}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "door"


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(room: str) -> set[str]:
    if room == "door":
        return ROOMS
    if room in LEAVES:
        return {room}
    return {room, *LEAVES} if room in MIDDLE else ROOMS - ({"measuring"} if room == "training" else set())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "hvd_r2n2" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in allowed(room), f"{room} must not import {name}"
        elif parts[0] == "hvd_r2n2" and len(parts) > 2:
            pytest.fail(f"{room} must not import the door {name}")


@pytest.mark.parametrize("library", ["horovod", "mpi4py"])
def test_only_comm_speaks_to_other_ranks(library: str) -> None:
    importers = {room_of(path) for path in FILES for name in imports(path) if name.split(".")[0] == library}
    assert importers == {"comm"}


def test_no_file_is_longer_than_it_should_be() -> None:
    too_long = {str(path.relative_to(PACKAGE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 450}
    assert not too_long


def test_rooms_export_only_what_is_imported_from_them() -> None:
    files = [path for folder in ("hvd_r2n2", "tests", "scripts") for path in (PACKAGE.parent / folder).rglob("*.py")]
    imported = {name for path in files for name in imports(path)}
    exported = set()
    for path in PACKAGE.glob("*/__init__.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign):  # of __all__
                exported |= {f"hvd_r2n2.{room_of(path)}.{name}" for name in ast.literal_eval(node.value)}
    assert "hvd_r2n2.models.create_model" in exported
    assert not exported - imported
