"""The table of rooms in `docs/architecture.md`, held against what the modules import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvpool
from tests.support.docs_pages import DOCS

SOURCES = Path(kvpool.__file__).parent
FRONT = "kvpool"


def rooms() -> dict[str, int]:
    """Return the number of each module's room: the first row of the table is 0."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| room | modules |")[2].partition("\n\n")[0]
    rows = [row.split("|")[2] for row in table.splitlines()[2:]]
    named = [(name, room) for room, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)]
    assert len(named) == len({name for name, _ in named}), "a module stands in two rooms"
    return dict(named)


def module(dotted: str) -> str:
    """Return the module directly below kvpool that a dotted name lies in, or `kvpool`."""
    return [*dotted.split("."), FRONT][1]


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted names below kvpool that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules() -> dict[str, list[Path]]:
    """Return the files of each module directly below kvpool; the package itself is `kvpool`."""
    files: dict[str, list[Path]] = {}
    for file in sorted(SOURCES.rglob("*.py")):
        first = file.relative_to(SOURCES).parts[0].removesuffix(".py")
        files.setdefault(FRONT if first == "__init__" else first, []).append(file)
    return files


def test_every_module_stands_in_a_room() -> None:
    assert set(rooms()) == set(modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_room_knows_only_those_above_it(name: str) -> None:
    numbers = rooms()
    known = {
        module(dotted)
        for file in modules()[name]
        for dotted in imports(file)
        if dotted.partition(".")[0] == "kvpool"
    }
    assert {other for other in known if numbers[other] > numbers[name]} == set()


@pytest.mark.parametrize("backend", ["kvpool_numpy", "kvpool_mmap", "kvpool_ctypes"])
def test_a_backend_knows_the_contract_alone(backend: str) -> None:
    files = sorted((DOCS.parent / "backends" / backend).glob("*.py"))
    assert files
    known = {dotted for file in files for dotted in imports(file) if dotted.startswith("kvpool.")}
    assert known <= {"kvpool.arena", "kvpool.hookspecs", "kvpool.errors"}
