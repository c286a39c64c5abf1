"""Change the file of a manifest; comments, order and line ends stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tomlkit
from tomlkit.items import AoT

from milestones import settings

__all__ = ["edit", "path_of"]


def path_of(stack: str) -> Path:
    """Return the path of a manifest, relative to the root."""
    return settings.current().directory / f"{stack}.toml"


def edit(root: Path, stack: str, change: Callable[[AoT], None]) -> Path:
    """Change the tables of the milestones of a stack.

    Parameters
    ----------
    root : Path
        The root of the repository.
    stack : str
        The stack.
    change : callable
        Is given the tables, and changes them in place.

    Returns
    -------
    Path
        The file, relative to the root.
    """
    path = path_of(stack)
    line_end = "\r\n" if b"\r\n" in (root / path).read_bytes() else "\n"
    document = tomlkit.parse((root / path).read_text(encoding="utf-8"))
    tables = document["milestone"]
    assert isinstance(tables, AoT)  # the schema says so
    change(tables)
    (root / path).write_text(tomlkit.dumps(document), encoding="utf-8", newline=line_end)
    return path
