"""Whose lines a staged change touches, by git blame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milestones.git import Git

__all__ = ["Touched", "touched"]

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
_BLAMED = re.compile(r"^([0-9a-f]{40}) \d+ (\d+)(?: \d+)?$")


@dataclass(frozen=True)
class Touched:
    """A part of a file that a staged change replaces, or where it adds something.

    Parameters
    ----------
    path : str
        The file.
    lines : tuple of int
        Its lines as HEAD has them. For an addition, those before and after it.
    commits : tuple of str
        The commit that each of them is from; empty if the file has no lines to ask about.
    adds : bool
        Whether it only adds.
    """

    path: str
    lines: tuple[int, ...]
    commits: tuple[str, ...]
    adds: bool


def touched(git: Git) -> list[Touched]:
    """Return what the staged change touches, file by file."""
    listed = git.run("diff", "--cached", "--no-renames", "--name-only", "-z", "HEAD")
    return [one for path in listed.split("\0") if path for one in _of(git, path)]


def _of(git: Git, path: str) -> Iterator[Touched]:
    order = ["diff", "--cached", "--no-renames", "--no-color", "--no-ext-diff", "--unified=0"]
    hunks = [
        (int(found[1]), int(found[2] or 1))
        for line in git.run(*order, "HEAD", "--", f":(top,literal){path}").split("\n")
        if (found := _HUNK.match(line))
    ]
    known = _blame(git, path) if git.knows(f"HEAD:{path}") else []
    for start, count in hunks if known else ():
        first = max(start, 1)
        last = start + count - 1 if count else min(start + 1, len(known))
        numbers = tuple(range(first, last + 1))
        yield Touched(path, numbers, tuple(known[one - 1] for one in numbers), adds=not count)
    if not hunks or not known:
        yield Touched(path, (), (), adds=True)


def _blame(git: Git, path: str) -> Sequence[str]:
    """Return the commit of each line of a file as HEAD has it."""
    order = ["-c", "blame.ignoreRevsFile=", "blame", "--porcelain", "HEAD", "--"]
    found: dict[int, str] = {}
    for line in git.run(*order, path).split("\n"):
        if line.startswith("\t"):
            continue
        if blamed := _BLAMED.match(line):
            found[int(blamed[2])] = blamed[1]
    return [found[number] for number in sorted(found)]
