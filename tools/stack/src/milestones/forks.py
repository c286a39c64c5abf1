"""Where a branch left its parent: the commits after that are its own.

A rebase needs the fork point exactly: too low, and it repeats commits of the parent that are
in the squash already; too high, and it loses commits of its own. It is taken from what is
certain first, and from what was recorded before anything is derived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from milestones.errors import StackError
from milestones.facts import Fact, Trunk, base_of, dropped
from milestones.git import Git
from milestones.manifest import Manifest, Milestone

__all__ = ["FORKS", "Fork", "find_fork", "ref_of"]

FORKS = "refs/stack/fork/"
"""Refs that hold the recorded fork points, so that nothing in them is ever collected."""


@dataclass(frozen=True)
class Fork:
    """A fork point, and how it is known."""

    commit: str
    source: str


def ref_of(milestone: Milestone) -> str:
    """Return the ref of the recorded fork point of a milestone."""
    return f"{FORKS}{milestone.key}"


def find_fork(
    git: Git,
    manifest: Manifest,
    milestone: Milestone,
    trunk: Trunk,
    facts: Mapping[str, Fact],
) -> Fork:
    """Find the fork point of a milestone that has a branch.

    Parameters
    ----------
    git, manifest, milestone, trunk, facts
        The repository, the stack, the milestone, the trunk, and where milestones are.

    Returns
    -------
    Fork
        An ancestor of the tip of the branch.

    Raises
    ------
    StackError
        There is no way to know it; the hint says how to record it.
    """
    tip = facts[milestone.key].commit
    for candidates in (
        _certain(git, manifest, milestone, trunk, facts),
        _recorded(git, milestone),
        _derived(git, manifest, milestone, tip, facts),
    ):
        below = [one for one in candidates if git.knows(one.commit)]
        below = [one for one in below if git.is_ancestor(one.commit, tip)]
        if below:
            return min(below, key=lambda one: git.count(f"{one.commit}..{tip}"))
    raise StackError(
        f"{milestone.key}: where {milestone.branch} left {milestone.parent} is not known",
        [
            "Look for the last commit that is not its own:",
            f"  git log --oneline {trunk.ref}..{milestone.branch}",
            f"and record it in docs/stack/{manifest.stack}.toml, milestone {milestone.id}:",
            '  fork_point = "…"',
        ],
    )


def _certain(
    git: Git, manifest: Manifest, milestone: Milestone, trunk: Trunk, facts: Mapping[str, Fact]
) -> Iterator[Fork]:
    """Yield what follows from where the branch sits now."""
    tip = facts[milestone.key].commit
    base = base_of(manifest, milestone, facts)
    if base is None or (base[1].merged and git.is_ancestor(base[1].commit, tip)):
        if left := git.merge_base(trunk.commit, tip):
            yield Fork(left, f"where it left {trunk.name}")
    elif here := git.commit(f"refs/heads/{base[0].branch}") or git.commit(base[1].ref):
        if once := dropped(git, base[0].branch, tip):
            yield Fork(once, f"what {base[0].branch} has dropped ends there")
        else:
            yield Fork(here, f"the tip of {base[0].branch}")


def _recorded(git: Git, milestone: Milestone) -> Iterable[Fork]:
    recorded = git.commit(ref_of(milestone))
    if recorded is not None:
        yield Fork(recorded, "recorded when it was last moved")
    if milestone.fork_point is not None:
        yield Fork(milestone.fork_point, "recorded in the manifest")


def _derived(
    git: Git, manifest: Manifest, milestone: Milestone, tip: str, facts: Mapping[str, Fact]
) -> Iterator[Fork]:
    """Yield what the parent left behind: the tree that was squashed, or its reflog."""
    base = base_of(manifest, milestone, facts)
    if base is None:
        return
    parent, fact = base
    if fact.merged:
        # The first of several: to repeat a commit is harmless, to lose one is not.
        history = git.lines("log", "--reverse", "--format=%H %T", tip)
        for line in history:
            commit, tree = line.split()
            if tree == fact.tree:
                yield Fork(commit, f"its tree is that of {parent.key} on {fact.ref}")
                return
    elif git.commit(f"refs/heads/{parent.branch}"):
        done = git.attempt("merge-base", "--fork-point", f"refs/heads/{parent.branch}", tip)
        if done.returncode == 0:
            yield Fork(done.stdout.strip(), f"from the reflog of {parent.branch}")
