"""Bring a stack up to date with its remote: what landed, what moved, and what is to be pushed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from milestones import replay, restack, settings
from milestones.errors import StackError
from milestones.facts import Fact, find_trunk
from milestones.forge import run
from milestones.git import Change, Git
from milestones.journal import Journal
from milestones.land import fetch
from milestones.manifest import Manifest
from milestones.restack import Push, foreign_push

__all__ = ["OPERATION", "Sync", "execute", "fetch_all", "obstacles", "plan", "push", "pushes"]

OPERATION = "sync"
"""What the journal calls it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sync:
    """What a sync does after it has fetched.

    Parameters
    ----------
    manifests : tuple of Manifest
        The stacks.
    landed : mapping
        The commit on the trunk of each milestone that was not known to be there before.
    left : tuple of str
        Branches of merged milestones that are still here.
    trunks : tuple of Change
        Local trunks that follow their remote.
    plans : tuple of restack.Plan
        What moves, stack by stack.
    """

    manifests: tuple[Manifest, ...]
    landed: Mapping[str, str]
    left: tuple[str, ...]
    trunks: tuple[Change, ...]
    plans: tuple[restack.Plan, ...]


def fetch_all(git: Git, manifests: Sequence[Manifest]) -> None:
    """Fetch from every remote that stacks are on.

    Raises
    ------
    StackError
        There is no remote, or one does not answer.
    """
    branches = [one.trunk for one in manifests]
    branches += [part.branch for one in manifests for part in one.milestones]
    remotes = {git.remote_of(branch) for branch in branches} & set(git.lines("remote"))
    if not remotes:
        raise StackError("there is no remote", ["git remote add origin ADDRESS"])
    for remote in sorted(remotes):
        fetch(git, remote)


def plan(
    git: Git,
    manifests: Sequence[Manifest],
    before: Mapping[str, Fact],
    facts: Mapping[str, Fact],
) -> Sync:
    """Plan what follows from a fetch.

    Parameters
    ----------
    git, manifests
        The repository and the stacks.
    before, facts : mapping
        Where milestones were before the fetch, and where they are now.

    Raises
    ------
    StackError
        A stack cannot be restacked; see `restack.plan`.
    """
    landed: dict[str, str] = {}
    left: list[str] = []
    trunks: dict[str, Change] = {}
    for manifest in manifests:
        for one in manifest.milestones:
            fact = facts.get(one.key)
            if fact is None or not fact.merged:
                continue
            if one.key not in before or not before[one.key].merged:
                landed[one.key] = fact.commit
            if git.commit(f"refs/heads/{one.branch}") is not None:
                left.append(one.branch)
        trunk, local = find_trunk(git, manifest.trunk), git.commit(f"refs/heads/{manifest.trunk}")
        if trunk is not None and local is not None and local != trunk.commit:
            ref = f"refs/heads/{manifest.trunk}"
            trunks[ref] = Change(ref, local, trunk.commit)
    plans = (restack.plan(git, one, facts) for one in manifests)
    return Sync(tuple(manifests), landed, tuple(left), tuple(trunks.values()), tuple(plans))


def obstacles(
    git: Git, sync: Sync, facts: Mapping[str, Fact], journal: Journal
) -> list[StackError]:
    """Return everything that speaks against a sync, each with what to do about it."""
    found: list[StackError] = []
    for plan in sync.plans:
        if plan.segments or sync.trunks:
            found += restack.obstacles(git, plan, journal)
    for trunk in sync.trunks:
        found += _obstacles_of(git, trunk)
    found += _pushed(git, sync, facts, journal)
    return list({str(one): one for one in found}.values())  # each once


def _obstacles_of(git: Git, trunk: Change) -> list[StackError]:
    """Return what keeps a trunk from following its remote."""
    found: list[StackError] = []
    name = trunk.ref.removeprefix("refs/heads/")
    if path := git.elsewhere().get(trunk.ref):
        found.append(
            StackError(
                f"{name} is checked out in another worktree, {path}",
                [f"git -C {shlex.quote(str(path))} pull --ff-only"],
            )
        )
    new = git.files(trunk.then or "") if git.head() == trunk.ref else set()
    if in_the_way := sorted(git.untracked() & new):
        found.append(
            StackError(
                f"files that git does not have are in the way of {name}: {', '.join(in_the_way)}",
                ["Move them elsewhere."],
            )
        )
    return found


def _pushed(
    git: Git, sync: Sync, facts: Mapping[str, Fact], journal: Journal
) -> Iterator[StackError]:
    """Yield what other people have pushed to branches that are here."""
    entries = journal.entries()
    for one in (one for manifest in sync.manifests for one in manifest.milestones):
        tip, fact = git.commit(f"refs/heads/{one.branch}"), facts.get(one.key)
        if tip is not None and fact is not None and not fact.merged:
            pushed = foreign_push(git, one.branch, tip, entries)
            if pushed is not None:
                yield pushed


def execute(git: Git, sync: Sync, facts: Mapping[str, Fact], journal: Journal, say: Say) -> None:
    """Move the trunk and the branches; one `undo` brings all of them back.

    Raises
    ------
    ConflictError
        Two changes contradict each other; the rebase waits.
    StackError
        Something speaks against it, and nothing has been done.
    """
    replay.refuse(obstacles(git, sync, facts, journal))
    refs = [ref for plan in sync.plans for ref in replay.refs_of(plan)]
    refs += [one.ref for one in sync.trunks]
    if not refs:
        return
    head = git.head()
    entry = journal.begin(OPERATION, refs)
    git.run("switch", "--detach")  # so that no branch moves from under the working tree
    git.move(sync.trunks, OPERATION)
    for plan in sync.plans:
        replay.carry_out(git, plan, OPERATION, head, say)
    git.go_to(head)
    journal.end(entry, OPERATION)


def pushes(git: Git, sync: Sync, facts: Mapping[str, Fact]) -> list[Push]:
    """Return what has to be pushed: branches that the remote has, and not as they are here."""
    every = [one for manifest in sync.manifests for one in restack.pushes(git, manifest, facts)]
    return [one for one in every if one.lease is not None]


def push(git: Git, needed: Sequence[Push], say: Say) -> None:
    """Push branches, each only if there was no other push since the fetch.

    Raises
    ------
    StackError
        The remote has refused one; those after it were not pushed.
    """
    for one in needed:
        say(one.command)
        try:
            run(git, one.words)
        except StackError as error:
            raise StackError(
                f"{one.remote} has not taken {one.branch}: {error}",
                ["Branches that were pushed before stay so. Then again:", f"  {_again()}"],
            ) from error


def _again() -> str:
    return f"{settings.current().command} sync --execute"
