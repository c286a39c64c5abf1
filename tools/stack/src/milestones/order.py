"""The order in which records came to be, told by git and not by a clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from milestones.git import Git
from milestones.records import Record

__all__ = ["Found", "oldest_first"]


@dataclass(frozen=True)
class Found:
    """What was found where a record should be.

    Parameters
    ----------
    place : str
        Where it was.
    milestone : str
        The milestone that it claims to be of, or is kept for; empty if it is not known.
    record : Record or None
        The record, if it is one.
    fault : str
        Why it does not count; empty if it does.
    """

    place: str
    milestone: str
    record: Record | None
    fault: str = ""


def oldest_first(git: Git, notes: str, found: Iterable[Found]) -> list[Found]:
    """Sort records: each comes after those of its tree that are older.

    Parameters
    ----------
    git : Git
        The repository.
    notes : str
        The ref of the notes. Its own history says in which order records were added.
    found : iterable of Found
        The records. What is not one, and what the notes do not have, comes first.
    """
    every = list(found)
    if len([one for one in every if one.record is not None]) < 2:
        return every
    ranks = _ranks(git, notes)
    every.sort(key=lambda one: ranks.get(one.record.digest, -1) if one.record else -1)
    groups: dict[tuple[str, str], list[Found]] = {}
    for one in every:
        group = (one.record.milestone, one.record.tree) if one.record else ("", "")
        groups.setdefault(group, []).append(one)
    for group, members in groups.items():
        if group != ("", ""):
            members[:] = _by_ancestry(git, members)
    # Of each group, the places stay; who stands in them may have changed.
    turns = {group: iter(members) for group, members in groups.items()}
    return [
        next(turns[(one.record.milestone, one.record.tree) if one.record else ("", "")])
        for one in every
    ]


def _ranks(git: Git, notes: str) -> dict[str, int]:
    """Return when each record was first added to the notes, by its digest."""
    if git.commit(notes) is None:
        return {}
    options = ("--topo-order", "--reverse", "--format=", "--patch", "--text", "--unified=0")
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")
    ranks: dict[str, int] = {}
    for line in git.lines("log", *options, *plain, notes):
        if line.startswith("+{"):
            ranks.setdefault(_digest(line[1:]), len(ranks))
    return ranks


def _digest(line: str) -> str:
    try:
        return str(json.loads(line).get("digest"))
    except ValueError:
        return ""


def _by_ancestry(git: Git, members: Sequence[Found]) -> list[Found]:
    """Sort records of one tree such that none comes before one of an ancestor of its commit."""
    commits = dict.fromkeys(one.record.commit for one in members if one.record is not None)
    known = list(git.trees(commits)) if len(commits) > 1 else []
    above = {
        newer: {older for older in known if older != newer and git.is_ancestor(older, newer)}
        for newer in known
    }
    left, done = list(members), list[Found]()
    while left:
        waiting = {one.record.commit for one in left if one.record is not None}
        first = next(
            one
            for one in left
            if one.record is None or not above.get(one.record.commit, set()) & waiting
        )
        left.remove(first)
        done.append(first)
    return done
