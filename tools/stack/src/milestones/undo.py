"""Bring refs back to where they were before an operation.

An undo is an operation itself: it is written down before it begins, and can be undone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milestones.errors import StackError
from milestones.git import Change, Git, GitError
from milestones.journal import Entry, Journal

__all__ = ["UndoPlan", "execute", "plan"]

# Remote-tracking refs say what is elsewhere, and records stay true: neither is brought back.
_BROUGHT_BACK = ("refs/heads/", "refs/stack/fork/")


@dataclass(frozen=True)
class UndoPlan:
    """What an undo would do.

    Parameters
    ----------
    entry : Entry
        The operation that it undoes.
    changes : tuple of Change
        The refs that it moves.
    moved : tuple of str
        Those among them that have moved again since the operation.
    aborts : bool
        Whether a rebase that waits is given up, with what was resolved in it.
    files : mapping
        Mode and blob that each file of the working tree is to have; None: it goes away.
    """

    entry: Entry
    changes: tuple[Change, ...]
    moved: tuple[str, ...]
    aborts: bool
    files: Mapping[str, str | None]


def plan(git: Git, journal: Journal, chosen: str | None = None) -> UndoPlan:
    """Plan the undoing of an operation.

    Parameters
    ----------
    git, journal
        The repository and its journal.
    chosen : str, optional
        The beginning of the id of an entry. Without it, the newest operation that is neither
        an undo nor undone.

    Raises
    ------
    StackError
        There is no such operation.
    """
    entry = _entry(journal.entries(), chosen)
    after = entry.after
    if after is None:
        names = entry.moves
    else:
        every = [name for name in {**entry.before, **after} if name.startswith(_BROUGHT_BACK)]
        names = [name for name in every if entry.before.get(name) != after.get(name)]
    now = git.refs(*_BROUGHT_BACK)
    changes = [Change(name, now.get(name), entry.before.get(name)) for name in names]
    if after is not None:
        moved = [one.ref for one in changes if one.now != after.get(one.ref)]
    else:
        moved = [one.ref for one in changes if not journal.left_by(entry, one.ref)]
    aborts = git.rebase_in_progress()
    changed = () if aborts else _changed_files(git, entry, journal)
    return UndoPlan(
        entry,
        tuple(one for one in changes if one.now != one.then),
        (*(name for name in moved if now.get(name) != entry.before.get(name)), *changed),
        aborts,
        entry.files,
    )


def execute(git: Git, plan: UndoPlan, journal: Journal, *, force: bool = False) -> None:
    """Carry out an undo.

    Parameters
    ----------
    git, plan, journal
        The repository, what to do, and where to write that down.
    force : bool, optional
        Also take back what came after the operation. It stays in the journal.

    Raises
    ------
    StackError
        A ref has moved since, the working tree has changes, or a branch is checked out
        elsewhere; nothing has been done.
    """
    _check(git, plan, force)
    if plan.aborts:
        git.run("rebase", "--abort")
    here = git.head()
    operation = f"undo of {plan.entry.operation}"
    refs = [one.ref for one in plan.changes]
    paths = [Path(name) for name in plan.files]
    entry = journal.begin(operation, refs, undoes=plan.entry.id, files=paths)
    loose = _loose(git)
    _bring_back(git, {name: blob for name, blob in plan.files.items() if name in loose})
    git.run("switch", "--detach")  # so that no branch moves from under the working tree
    # The abort of a rebase has moved nothing but HEAD: the ids of the plan still hold.
    git.move(plan.changes, operation)
    # Whoever has gone elsewhere since the operation stays there, unless files come back.
    went = here not in (plan.entry.head_after, plan.entry.head) and not plan.aborts
    stays = went and here.startswith("refs/") and git.commit(here) is not None and not plan.files
    try:
        git.go_to(here if stays else plan.entry.head)
        _bring_back(git, plan.files)  # what was staged then is in no branch any more
    except GitError as error:
        raise StackError(
            f"every branch is back, but none is checked out now: {error}",
            ["Move what is in the way, then: git switch BRANCH"],
        ) from error
    finally:
        journal.end(entry, operation)


def _changed_files(git: Git, entry: Entry, journal: Journal) -> Sequence[str]:
    """Return the files that are neither as they were before an operation nor as it left them."""
    loose, found = _loose(git), []
    for name, before in entry.files.items():
        now = journal.keep(name)
        # What is as git has it is not lost.
        if name in loose and now not in (before, entry.files_after.get(name, before)):
            found.append(name)
    return found


def _loose(git: Git) -> set[str]:
    """Return the files of the working tree that are not as HEAD has them."""
    return {line[3:] for line in git.changes()} | git.untracked()


def _bring_back(git: Git, files: Mapping[str, str | None]) -> None:
    """Write files as the journal has them; a link is not written through."""
    for name, kept in files.items():
        path = git.root / name
        path.unlink(missing_ok=True)
        if kept is None:
            continue
        mode, blob = kept.split()
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "120000":
            path.symlink_to(os.fsdecode(git.blob(blob)))
            continue
        path.write_bytes(git.blob(blob))
        if mode == "100755":
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _entry(entries: list[Entry], chosen: str | None) -> Entry:
    if chosen is not None:
        fits = [one for one in entries if one.id.startswith(chosen)]
        if len(fits) != 1:
            raise StackError(f"{len(fits)} entries of the journal begin with {chosen!r}")
        return fits[0]
    for one in entries:
        if one.undoes is None and _holds(one, entries):
            return one
    raise StackError("there is nothing to undo: the journal has no operation that still holds")


def _holds(entry: Entry, entries: list[Entry]) -> bool:
    """Return whether nothing that holds has undone an operation; an undo can be undone, too."""
    return not any(
        one.undoes == entry.id and one.after is not None and _holds(one, entries) for one in entries
    )


def _check(git: Git, plan: UndoPlan, force: bool) -> None:
    if plan.aborts and plan.entry.after is not None:
        raise StackError(
            f"a rebase waits here that does not belong to {plan.entry.operation!r}",
            ["git rebase --continue", "or git rebase --abort"],
        )
    changed = [line[3:] for line in git.changes() if line[3:] not in plan.files]
    if not plan.aborts and changed:
        names = ", ".join(changed)
        raise StackError(f"the working tree has changes: {names}", ["git stash"])
    if plan.moved and not force:
        names = ", ".join(name.removeprefix("refs/heads/") for name in plan.moved)
        raise StackError(
            f"moved since then: {names}; what came after would leave the branch",
            ["To do it all the same (the journal keeps what is there now): --force"],
        )
    elsewhere = git.elsewhere()
    for one in plan.changes:
        if path := elsewhere.get(one.ref):
            raise StackError(f"{one.ref} is checked out in another worktree, {path}")
