"""What git says of each milestone: where it is, and what it sits on.

Facts can be written down (`docs/stack/state.json`), so that pages are a function of the files
beside them. A milestone is found on the trunk by the trailer ``Milestone: STACK/N``, before
that by its branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from milestones.errors import StackError
from milestones.git import Git
from milestones.manifest import Manifest, Milestone

__all__ = ["TRAILER", "Fact", "Trunk", "base_of", "find_trunk", "survey"]

TRAILER = "Milestone"

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
    local, fetched = git.commit(f"refs/heads/{name}"), git.commit(f"refs/remotes/{remote}")
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
    facts: dict[str, Fact] = {}
    branches = _Branches(git)
    trunks = {name: find_trunk(git, name) for name in {one.trunk for one in stacks.values()}}
    merged = {name: _trailers(git, trunk) for name, trunk in trunks.items() if trunk is not None}
    for manifest in stacks.values():
        trunk, on_trunk = trunks[manifest.trunk], merged.get(manifest.trunk, {})
        for one in manifest.milestones:
            if trunk is not None and one.key in on_trunk:
                commit = on_trunk[one.key]
                facts[one.key] = Fact(
                    commit=commit,
                    tree=git.tree(commit),
                    ref=trunk.name,
                    merged=True,
                    base=trunk.name,
                    on_parent=True,
                    behind=0,
                )
            elif ref := branches.find(one.branch):
                base = base_of(manifest, one, facts)
                commit, tree = branches.tips[ref]
                facts[one.key] = Fact(
                    commit=commit,
                    tree=tree,
                    ref=ref.removeprefix("refs/heads/").removeprefix("refs/remotes/"),
                    merged=False,
                    base=manifest.trunk if base is None or base[1].merged else base[1].ref,
                    on_parent=base is None or git.is_ancestor(base[1].commit, commit),
                    behind=git.count(f"{commit}..{trunk.commit}") if trunk is not None else 0,
                )
    return facts


def _trailers(git: Git, trunk: Trunk) -> dict[str, str]:
    """Return the newest commit of the trunk with each trailer."""
    values = f"%(trailers:key={TRAILER},valueonly,separator=%x20)"
    found: dict[str, str] = {}
    for line in git.lines("log", f"--format=%H {values}", trunk.commit):
        commit, *keys = line.split()
        for key in keys:
            found.setdefault(key, commit)
    return found
