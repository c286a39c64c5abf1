"""The tree of errors that `kvpool.errors` draws."""

from __future__ import annotations

import re

import kvpool.errors
from kvpool.errors import KVPoolError


def drawn(error: type[Exception], depth: int = 1) -> list[tuple[int, str, str]]:
    """Return depth, name and built-in base of an error and of those below it."""
    builtin = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
    lines = [(depth, error.__name__, builtin[0] if builtin and depth > 1 else "")]
    below = [one for one in vars(kvpool.errors).values() if error in getattr(one, "__bases__", ())]
    for child in below:
        lines += drawn(child, depth + 1)
    return lines


def test_the_tree_shows_every_error() -> None:
    rows = re.findall(r"^( {4,})(\w+Error)(?: +(\w+))?$", str(kvpool.errors.__doc__), re.MULTILINE)
    tree = [(len(indent) // 2 - 1, name, builtin) for indent, name, builtin in rows]
    assert tree == drawn(KVPoolError), "draw the tree in the docstring of kvpool.errors"
    assert {name for _, name, _ in tree} == set(kvpool.errors.__all__)
