"""What a milestone changes, asked of git: files, public names, dates, phases.

It is asked for only when facts are written down, so that the pages can show it in any clone.
"""

from __future__ import annotations

import ast
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from milestones import settings
from milestones.conflicts import Conflict
from milestones.git import NOTHING, Git

__all__ = ["Changes", "FileChange", "Total", "kind_of", "measure"]

_EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # the tree without a file
_MOST = 50  # files that a page lists; the rest is in the totals
_PHASE = "Phase"

Count = Annotated[int, Field(ge=0)]


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileChange(_Json):
    """A file that differs: how, by how many lines, and which public names came and went.

    `how` is ``"new"``, ``"gone"`` or ``"changed"``. Lines of a binary file are 0.
    """

    path: str
    how: str
    added: Count
    removed: Count
    names_added: list[str] = []
    names_removed: list[str] = []


class Total(_Json):
    """How many files of a kind differ, and by how many lines."""

    files: Count
    added: Count
    removed: Count


class Changes(_Json):
    """What a milestone changes.

    Parameters
    ----------
    begun, ended : str
        The dates of its first and last commit, as ``2026-05-06``.
    commits : int
        How many there are; 1 after a squash.
    files : list of FileChange
        The largest changes.
    totals : dict
        All of them, by kind: see `kind_of`.
    names_added, names_removed : list of str
        Names that modules have in ``__all__`` after it and not before, and the reverse, each as
        ``FILE: NAME``.
    phases : dict
        The date on which each phase was done, by its number: a commit has the trailer
        ``Phase: N``.
    conflicts : list of Conflict
        What its last restack could not put together by itself, and how that was resolved.
    """

    begun: str
    ended: str
    commits: Count
    files: list[FileChange]
    totals: dict[str, Total]
    names_added: list[str] = []
    names_removed: list[str] = []
    phases: dict[str, str] = {}
    conflicts: list[Conflict] = []

    @property
    def total(self) -> Total:
        """The sum of all kinds."""
        every = self.totals.values()
        return Total(
            files=sum(one.files for one in every),
            added=sum(one.added for one in every),
            removed=sum(one.removed for one in every),
        )


def measure(git: Git, before: str | None, tip: str) -> Changes:
    """Return what the commits between two commits change; conflicts are not known here.

    Parameters
    ----------
    git : Git
        The repository.
    before : str or None
        The commit that the first own commit is based on; None if that has no parent.
    tip : str
        The last commit.
    """
    own = tip if before is None else f"{before}..{tip}"
    trailer = f"%(trailers:key={_PHASE},valueonly,separator=%x20)"
    log = git.lines("log", "--reverse", "--first-parent", f"--format=%cs {trailer}", own)
    dates = [line.split()[0] for line in log] or [git.run("log", "-1", "--format=%cs", tip)]
    phases = {number: line.split()[0] for line in log for number in line.split()[1:]}
    files = _files(git, before or _EMPTY, tip)
    totals: dict[str, Total] = {}
    for one in files:
        kind = kind_of(one.path)
        sum_ = totals.get(kind, Total(files=0, added=0, removed=0))
        totals[kind] = Total(
            files=sum_.files + 1, added=sum_.added + one.added, removed=sum_.removed + one.removed
        )
    largest = sorted(files, key=lambda one: (-(one.added + one.removed), one.path))[:_MOST]
    return Changes(
        begun=dates[0],
        ended=dates[-1],
        commits=len(log),
        files=sorted(largest, key=lambda one: one.path),
        totals=dict(sorted(totals.items())),
        names_added=[f"{one.path}: {name}" for one in files for name in one.names_added],
        names_removed=[f"{one.path}: {name}" for one in files for name in one.names_removed],
        phases=phases,
    )


def kind_of(path: str) -> str:
    """Return what a file is: ``code``, ``tests``, ``docs``, ``gates``, ``locks`` or ``stack``."""
    chosen, parts = settings.current(), PurePosixPath(path).parts

    def below(places: tuple[str, ...]) -> bool:
        return any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in places)

    if below((chosen.pages,)):
        return "stack"
    if below(chosen.definitions):
        return "gates"
    if below(chosen.locks):
        return "locks"
    if "tests" in parts or parts[-1].startswith("test_"):
        return "tests"
    if parts[0] == "docs" or path.endswith((".md", ".rst")):
        return "docs"
    return "code"


def _files(git: Git, before: str, tip: str) -> list[FileChange]:
    numbers: dict[str, tuple[int, int]] = {}
    order = ("diff-tree", "-r", "-z", "--no-renames")
    for entry in git.run(*order, "--numstat", before, tip).split("\0"):
        if entry:
            added, removed, path = entry.split("\t", 2)
            numbers[path] = (
                int(added) if added.isdigit() else 0,
                int(removed) if removed.isdigit() else 0,
            )
    words = git.run(*order, "--raw", "--abbrev=40", before, tip).split("\0")
    raw = {path: head.split() for head, path in zip(words[:-1:2], words[1::2], strict=True)}
    public = [path for path in raw if _is_public(path)]
    blobs = [id_ for path in public for id_ in raw[path][2:4] if id_ != NOTHING]
    texts = git.texts(blobs) if blobs else {}
    found: list[FileChange] = []
    for path, (_, _, old, new, letter) in raw.items():
        names_before, names_after = (
            _names(texts[one]) if path in public and one in texts else set[str]()
            for one in (old, new)
        )
        found.append(
            FileChange(
                path=path,
                how={"A": "new", "D": "gone"}.get(letter, "changed"),
                added=numbers[path][0],
                removed=numbers[path][1],
                names_added=sorted(names_after - names_before),
                names_removed=sorted(names_before - names_after),
            )
        )
    return found


def _is_public(path: str) -> bool:
    """Return whether a file is a module that its users may import."""
    parts = PurePosixPath(path).with_suffix("").parts
    hidden = any(part.startswith("_") and part != "__init__" for part in parts)
    return path.endswith(".py") and kind_of(path) == "code" and not hidden


def _names(text: str) -> set[str]:
    """Return the names in the ``__all__`` of a module; none if it has no list of them."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return set()
    for one in body:
        targets = one.targets if isinstance(one, ast.Assign) else ()
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = one.value if isinstance(one, ast.Assign) else None
            if isinstance(value, ast.List | ast.Tuple):
                constants = [item.value for item in value.elts if isinstance(item, ast.Constant)]
                return {str(item) for item in constants}
    return set()
