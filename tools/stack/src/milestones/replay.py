"""Carry out a restack: record every ref, rebase, check, and say what there is to push."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from milestones import settings
from milestones.errors import StackError
from milestones.forks import ref_of
from milestones.git import Change, Git, GitError
from milestones.journal import Journal
from milestones.restack import Move, Plan, Segment, obstacles

__all__ = [
    "ConflictError",
    "carry_out",
    "execute",
    "range_diff",
    "refs_of",
    "refuse",
    "way_back",
]


def way_back() -> str:
    """Return the command that brings every branch back."""
    return f"{settings.current().command} undo --execute"


class ConflictError(StackError):
    """A rebase has stopped and waits to be continued."""


def execute(git: Git, plan: Plan, journal: Journal, say: Callable[[str], None]) -> None:
    """Move the branches of a plan.

    Parameters
    ----------
    git : Git
        The repository.
    plan : Plan
        What to do.
    journal : Journal
        Gets every ref before the first of them moves.
    say : callable
        Is told each command before it runs.

    Raises
    ------
    ConflictError
        Two changes contradict each other. The rebase waits; the hint has the commands that
        finish it and those that give it up.
    StackError
        Something speaks against the plan, and nothing has been done; or a branch is not
        where it should be, and the hint says how to go back.
    """
    refuse(obstacles(git, plan, journal))
    head = git.head()
    operation = f"restack {plan.manifest.stack}"
    entry = journal.begin(operation, refs_of(plan))
    carry_out(git, plan, operation, head, say)
    git.go_to(head)
    journal.end(entry, operation)


def refuse(found: Sequence[StackError]) -> None:
    """Raise one error for all of several; none, if there is none.

    Raises
    ------
    StackError
        There is at least one.
    """
    if found:
        hint = [line for one in found for line in one.hint]
        raise StackError("\n".join(str(one) for one in found), hint)


def refs_of(plan: Plan) -> list[str]:
    """Return every ref that a plan moves, for the journal."""
    refs = [move.ref for move in plan.moves]
    return refs + [ref_of(move.milestone) for move in plan.moves]


def carry_out(git: Git, plan: Plan, operation: str, head: str, say: Callable[[str], None]) -> None:
    """Move the branches of a plan as a part of an operation that is in the journal already.

    Parameters
    ----------
    git, plan
        The repository, and what to do; the caller has looked for obstacles.
    operation : str
        The operation.
    head : str
        What is to be checked out in the end; that is left to the caller.
    say : callable
        Is told each command before it runs.

    Raises
    ------
    ConflictError, StackError
        As those of `execute`.
    """
    for segment in plan.segments:
        _rebase(git, plan, segment, head, say)
    git.move([_fork_change(git, move) for move in plan.moves], operation)


def range_diff(git: Git, move: Move) -> str:
    """Return how the commits of a moved branch differ from what they were before."""
    old = f"{move.fork.commit}..{move.tip}"
    new = f"{move.base}..{move.milestone.branch}"
    before, after = git.count(old), git.count(new)
    if not before or not after:  # git refuses to compare with a range that is empty
        return f"{before} commits of its own before, {after} now"
    return git.run("range-diff", "--no-color", old, new)


def _rebase(git: Git, plan: Plan, segment: Segment, head: str, say: Callable[[str], None]) -> None:
    say(f"git {shlex.join(segment.arguments)}")
    done = git.attempt(*segment.arguments, env=segment.environment)
    if done.returncode != 0:
        if git.rebase_in_progress():
            raise _conflict(git, plan, head, done.stderr)
        error = GitError(["git", *segment.arguments], done.returncode, done.stdout + done.stderr)
        raise StackError(str(error), _way_back(plan))
    for move in segment.moves:
        if not git.is_ancestor(move.base, move.milestone.branch):
            raise StackError(
                f"{move.milestone.branch} was left behind: it is not on {move.base}",
                _way_back(plan),
            )


def _fork_change(git: Git, move: Move) -> Change:
    ref = ref_of(move.milestone)
    return Change(ref, git.commit(ref), git.run("rev-parse", f"{move.base}^{{commit}}"))


def _conflict(git: Git, plan: Plan, head: str, said: str) -> ConflictError:
    files = git.lines("diff", "--name-only", "--diff-filter=U")
    stopped = git.commit("REBASE_HEAD")
    commit = git.run("log", "-1", "--format=%h %s", stopped) if stopped else "a commit"
    what = f"conflict at {commit}, in {', '.join(files)}"
    if not files:
        what = f"the rebase stopped at {commit}:\n{said.strip()}"
    add = [f"  git add {shlex.join(files)}"] if files else []
    back = head.removeprefix("refs/heads/") if head.startswith("refs/") else f"--detach {head}"
    return ConflictError(
        what,
        [
            "Nothing resolves itself here. To go on, put the files right, then:",
            *add,
            "  git rebase --continue",
            f"  git switch {back}",
            f"  {settings.current().command} restack {plan.manifest.stack} --execute",
            "To give up and have every branch back where it was:",
            f"  {way_back()}",
        ],
    )


def _way_back(plan: Plan) -> Sequence[str]:
    return [
        f"Branches of {plan.manifest.stack} may have moved. To have them back:",
        f"  {way_back()}",
    ]
