"""What git says of each milestone: where it is, and what it sits on.

Facts can be written down (`docs/stack/state.json`), so that pages are a function of the files
beside them. A milestone is found on the trunk by the trailer ``Milestone: STACK/N``, before
that by its branch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from milestones import settings
from milestones.changes import Changes
from milestones.errors import StackError
from milestones.evidence import Store
from milestones.git import Git
from milestones.manifest import Manifest, Milestone

__all__ = [
    "TRAILER",
    "Fact",
    "History",
    "Trunk",
    "base_of",
    "dropped",
    "find_trunk",
    "left_trunk",
    "survey",
]

TRAILER = "Milestone"

_REVERTED = re.compile(r"^This reverts commit ([0-9a-f]{40})", re.MULTILINE)

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Fact(BaseModel):
    """Where a milestone is.

    Parameters
    ----------
    commit, tree : str
        Its last commit and the tree of that.
    ref : str
        Where it was found: the trunk or a branch, local or remote.
    merged : bool
        Whether it is on the trunk.
    base : str
        What it is to sit on: the branch of its parent, or the trunk.
    on_parent : bool
        Whether it sits on what its parent is now.
    behind : int
        Commits of the trunk that it does not have.
    fork_point : str or None
        Where it left its parent. Asked for only when facts are written down.
    gates_changed : list of str
        Files that define the gates and are not as they were where it left the trunk.
    changes : Changes or None
        What it changes. Asked for only when facts are written down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    commit: Id
    tree: Id
    ref: str
    merged: bool
    base: str
    on_parent: bool
    behind: int
    fork_point: Id | None = None
    gates_changed: list[str] = []
    changes: Changes | None = None


@dataclass(frozen=True)
class Trunk:
    """The branch that milestones are merged into: its name, the ref it was read from, its tip."""

    name: str
    ref: str
    commit: str


def find_trunk(git: Git, name: str) -> Trunk | None:
    """Find the trunk: the local branch, or what was fetched of it if that is further.

    Raises
    ------
    StackError
        The two have parted.
    """
    remote = f"{git.remote_of(name)}/{name}"
    places = f"refs/heads/{name}", f"refs/remotes/{remote}"
    local, fetched = map(git.refs(*places).get, places)
    if local and fetched and not git.is_ancestor(fetched, local):
        if not git.is_ancestor(local, fetched):
            raise StackError(
                f"{name} and {remote} have parted: {local[:12]} and {fetched[:12]}",
                ["To see how:", f"  git log --oneline --left-right {name}...{remote}"],
            )
        return Trunk(name, remote, fetched)
    if local:
        return Trunk(name, name, local)
    return Trunk(name, remote, fetched) if fetched else None


def base_of(
    manifest: Manifest, milestone: Milestone, facts: Mapping[str, Fact]
) -> tuple[Milestone, Fact] | None:
    """Return what a milestone is based on in fact; None if that is the trunk alone.

    That is its parent; if there is no trace of its parent yet, what that is based on.
    """
    parent = manifest.parent(milestone)
    if parent is None:
        return None
    fact = facts.get(parent.key)
    return (parent, fact) if fact is not None else base_of(manifest, parent, facts)


class _Branches:
    """Every branch, local and remote, as it was at one moment."""

    def __init__(self, git: Git) -> None:
        fields = "--format=%(refname) %(objectname) %(tree)"
        listed = git.lines("for-each-ref", fields, "refs/heads/", "refs/remotes/")
        self.tips = {name: (commit, tree) for name, commit, tree in map(str.split, listed)}
        self.remote_of = git.remote_of

    def find(self, branch: str) -> str | None:
        """Return the ref of a branch: the local one, or the remote one if only that is there."""
        remote = f"refs/remotes/{self.remote_of(branch)}/{branch}"
        return next((ref for ref in (f"refs/heads/{branch}", remote) if ref in self.tips), None)


def survey(git: Git, stacks: Mapping[str, Manifest]) -> dict[str, Fact]:
    """Find every milestone that is there, by its key."""
    git.need_history()
    facts: dict[str, Fact] = {}
    before: dict[str, tuple[str, str]] = {}
    branches = _Branches(git)
    trunks = {name: find_trunk(git, name) for name in {one.trunk for one in stacks.values()}}
    merged = {name: History(git, trunk) for name, trunk in trunks.items() if trunk is not None}
    for manifest in stacks.values():
        trunk, history = trunks[manifest.trunk], merged.get(manifest.trunk)
        for one in manifest.milestones:
            ref = branches.find(one.branch)
            commit = history.find(one.key, branches.tips[ref] if ref else None) if history else None
            if trunk is not None and history is not None and commit is not None:
                tree, parent = history.places[commit]
                if parent in history.places:
                    before[one.key] = history.places[parent].tree, tree
                facts[one.key] = Fact(
                    commit=commit,
                    tree=tree,
                    ref=trunk.name,
                    merged=True,
                    base=trunk.name,
                    on_parent=True,
                    behind=0,
                )
            elif ref is not None:
                base = base_of(manifest, one, facts)
                commit, tree = branches.tips[ref]
                behind, left = _beside(git, trunk, commit)
                facts[one.key] = Fact(
                    commit=commit,
                    tree=tree,
                    ref=ref.removeprefix("refs/heads/").removeprefix("refs/remotes/"),
                    merged=False,
                    base=manifest.trunk if base is None or base[1].merged else base[1].ref,
                    on_parent=base is None
                    or (
                        git.is_ancestor(base[1].commit, commit) and not _carries(git, base, commit)
                    ),
                    behind=behind,
                )
                if left is not None:
                    before[one.key] = git.tree(left), tree
    changed = git.changed(list(before.values()), settings.current().definitions)
    for key, pair in before.items():
        facts[key] = facts[key].model_copy(update={"gates_changed": changed[pair]})
    return facts


def _beside(git: Git, trunk: Trunk | None, commit: str) -> tuple[int, str | None]:
    """Return how many commits of the trunk a branch does not have, and where it left the trunk."""
    if trunk is None:
        return 0, None
    if git.is_ancestor(trunk.commit, commit):
        return 0, trunk.commit
    return git.count(f"{commit}..{trunk.commit}"), left_trunk(git, trunk, commit)


def left_trunk(git: Git, trunk: Trunk | None, commit: str) -> str | None:
    """Return the commit of the trunk that a branch goes back to; None if there is none."""
    return git.merge_base(trunk.commit, commit) if trunk is not None else None


def _carries(git: Git, base: tuple[Milestone, Fact], commit: str) -> bool:
    """Return whether a branch still has what its parent has dropped."""
    parent, fact = base
    if fact.merged or fact.ref != parent.branch:  # of a branch that is not here, nothing is known
        return False
    return dropped(git, parent.branch, commit, fact.commit) is not None


def dropped(git: Git, parent: str, tip: str, here: str | None = None) -> str | None:
    """Return the last commit that a parent has had, does not have now, and a child still carries.

    Parameters
    ----------
    git : Git
        The repository.
    parent : str
        The branch of the parent; what it once had, its reflog says.
    tip : str
        The tip of the child. If that itself is what the parent has had, then the commits were
        moved to the child on purpose.
    here : str, optional
        The tip of the parent, if that is known.

    Returns
    -------
    str or None
    """
    here = here or git.commit(f"refs/heads/{parent}")
    if here is None or not git.is_ancestor(here, tip):
        return None
    done = git.attempt("merge-base", "--fork-point", f"refs/heads/{parent}", tip)
    once = done.stdout.strip()
    if done.returncode != 0 or once in (here, tip) or not git.is_ancestor(here, once):
        return None
    return once


class Place(NamedTuple):
    """A commit of a trunk: its tree, and its first parent; empty for the first commit."""

    tree: str
    parent: str


class History:
    """The commits of a trunk: which milestone each of them is.

    A milestone is the newest commit with its trailer. One that was squashed without it, by the
    button of a forge, is known by its tree: that of its branch, or of a record. What was
    reverted afterwards is not merged, unless the revert was reverted.

    Parameters
    ----------
    git : Git
        The repository.
    trunk : Trunk
        The trunk.
    """

    def __init__(self, git: Git, trunk: Trunk) -> None:
        self.git = git
        self.keys: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        self._trees: dict[str, str] = {}
        reverted: set[str] = set()
        values = f"%(trailers:key={TRAILER},valueonly,separator=%x20)"
        said = git.run("log", f"--format=%H %T %P%n{values}%n%B%x00", trunk.commit)
        for entry in said.split("\0"):
            first, _, rest = entry.strip("\n").partition("\n")
            commit, tree, parent = (*first.split(), "", "", "")[:3]
            if not commit:
                continue
            self.places[commit] = Place(tree, parent)
            if commit in reverted:
                continue
            keys, _, body = rest.partition("\n")
            reverted.update(_REVERTED.findall(body))
            self._trees[tree] = commit  # the oldest of several
            for key in keys.split():
                self.keys.setdefault(key, commit)

    def find(self, key: str, tip: tuple[str, str] | None) -> str | None:
        """Return the commit that a milestone is on the trunk; None if it is not merged.

        Parameters
        ----------
        key : str
            The milestone.
        tip : tuple of str or None
            Commit and tree of its branch; None if it has none.
        """
        if key in self.keys:
            return self.keys[key]
        for commit, tree in [tip] if tip is not None else self._recorded.get(key, []):
            landed = self._trees.get(tree)
            # A branch that was only begun has the tree of a commit that it comes from.
            named = landed in self.keys.values()  # another milestone, by its trailer
            if landed is not None and not named and not self._comes_from(commit, landed):
                return landed
        return None

    def _comes_from(self, commit: str, landed: str) -> bool:
        return self.git.knows(commit) and self.git.is_ancestor(landed, commit)

    @functools.cached_property
    def _recorded(self) -> dict[str, list[tuple[str, str]]]:
        """Commit and tree of every green record, by milestone."""
        found: dict[str, list[tuple[str, str]]] = {}
        for one in Store(self.git).read():
            if one.record is not None and not one.fault and one.record.green:
                place = one.record.commit, one.record.tree
                found.setdefault(one.milestone, []).append(place)
        return found
