"""Plan how branches follow a parent that has moved: squash-merged, or amended.

Nothing is changed here. A plan is a row of segments; each is one `git rebase --onto
--update-refs` of a chain of branches that still hang together.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milestones import settings
from milestones.errors import StackError
from milestones.facts import Fact, Trunk, base_of, dropped, find_trunk
from milestones.forks import Fork, find_fork
from milestones.git import Git
from milestones.journal import Entry, Journal
from milestones.manifest import Manifest, Milestone

__all__ = [
    "Move",
    "Plan",
    "Push",
    "Segment",
    "foreign_push",
    "obstacles",
    "obstacles_of_branches",
    "plan",
    "pushes",
]


@dataclass(frozen=True)
class Move:
    """A branch that is to move.

    Parameters
    ----------
    milestone : Milestone
        Whose branch it is.
    tip : str
        Its commit now.
    fork : Fork
        Where it left its parent; what comes after is its own.
    base : str
        What it will sit on: a branch that may itself move before, or the trunk.
    dropped : tuple of str
        Commits of the parent that it still has and its parent has dropped, a line each.
    """

    milestone: Milestone
    tip: str
    fork: Fork
    base: str
    dropped: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """The full name of the branch."""
        return f"refs/heads/{self.milestone.branch}"


@dataclass(frozen=True)
class Segment:
    """Branches, each on top of the one before, that move by one rebase.

    Parameters
    ----------
    moves : tuple of Move
        The lowest first.
    bystanders : tuple of str
        Other branches that point into the range; `--update-refs` would take them along.
    """

    moves: tuple[Move, ...]
    bystanders: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The rebase, as arguments of git."""
        onto, fork = self.moves[0].base, self.moves[0].fork.commit
        order = ["rebase", "--onto", onto, "--update-refs", "--empty=drop"]
        order += ["--no-autosquash", "--no-autostash"]
        order += ["--interactive"] if self.bystanders else []
        return [*order, fork, self.moves[-1].milestone.branch]

    @property
    def environment(self) -> dict[str, str]:
        """An editor of the todo list that leaves the bystanders where they are."""
        if not self.bystanders:
            return {}
        words = ["sed", "-i.bak"]
        for ref in self.bystanders:
            words += ["-e", rf"\|^update-ref {ref}$|d"]
        return {"GIT_SEQUENCE_EDITOR": shlex.join(words)}


@dataclass(frozen=True)
class Plan:
    """What a restack of one stack would do; `notes` says what it leaves alone, and why."""

    manifest: Manifest
    trunk: Trunk
    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every branch that moves, parents first."""
        return tuple(move for segment in self.segments for move in segment.moves)


@dataclass(frozen=True)
class Push:
    """A branch whose remote is not what it is here; `lease` is the id that the remote had."""

    branch: str
    remote: str
    lease: str | None

    @property
    def command(self) -> str:
        """The push, which fails if there was another push in between."""
        return shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        """The push as words."""
        if self.lease is None:
            return ["git", "push", "--set-upstream", self.remote, self.branch]
        lease = f"--force-with-lease=refs/heads/{self.branch}:{self.lease}"
        return ["git", "push", lease, self.remote, self.branch]


def plan(git: Git, manifest: Manifest, facts: Mapping[str, Fact]) -> Plan:
    """Plan the restack of a stack.

    Parameters
    ----------
    git, manifest, facts
        The repository, the stack, and where milestones are.

    Returns
    -------
    Plan
        Without segments, if every branch sits on what its parent is now.

    Raises
    ------
    StackError
        There is no trunk, or the fork point of a branch is not known.
    """
    trunk = find_trunk(git, manifest.trunk)
    if trunk is None:
        raise StackError(f"there is no branch {manifest.trunk}, the trunk of {manifest.stack}")
    _refuse_other_order(git, manifest, facts)
    segments: list[list[Move]] = []
    notes: list[str] = []
    moved: dict[str, Move] = {}
    for one in manifest.milestones:
        fact = facts.get(one.key)
        if fact is None or fact.merged:
            continue
        base = base_of(manifest, one, facts)
        on_trunk = base is None or base[1].merged
        below = moved.get(base[0].key) if base is not None else None
        current = trunk.commit if on_trunk or base is None else base[1].commit
        carries = not on_trunk and base is not None and dropped(git, base[0].branch, fact.commit)
        if below is None and git.is_ancestor(current, fact.commit) and not carries:
            continue
        if git.commit(f"refs/heads/{one.branch}") is None:
            notes.append(f"{one.key} is not here: git switch {one.branch}, then restack again")
            continue
        fork = find_fork(git, manifest, one, trunk, facts)
        name = trunk.ref if on_trunk or base is None else base[1].ref
        gone = git.lines("log", "--format=%h %s", f"{current}..{fork.commit}") if carries else []
        move = moved[one.key] = Move(one, fact.commit, fork, name, tuple(gone))
        chain = next((row for row in segments if row[-1] is below), None)
        if chain is not None and below is not None and _hangs_on(chain, below, fork):
            chain.append(move)
        else:
            segments.append([move])
    rows = tuple(Segment(tuple(row), _bystanders(git, row)) for row in segments)
    return Plan(manifest, trunk, rows, tuple(notes))


def obstacles(git: Git, plan: Plan, journal: Journal) -> list[StackError]:
    """Return everything that speaks against a plan, each with what to do about it."""
    found: list[StackError] = []
    if git.rebase_in_progress():
        found.append(
            StackError("a rebase waits here", ["git rebase --continue", "or git rebase --abort"])
        )
    elif changed := git.changes():
        found.append(
            StackError(
                f"the working tree has changes: {', '.join(line[3:] for line in changed)}",
                ["Commit them, or put them aside: git stash"],
            )
        )
    return found + obstacles_of_branches(git, plan, journal)


def obstacles_of_branches(git: Git, plan: Plan, journal: Journal) -> list[StackError]:
    """Return what speaks against a plan, but for a rebase that waits and changes that are here."""
    found: list[StackError] = []
    if in_the_way := _untracked(git, plan):
        found.append(
            StackError(
                f"files that git does not have are in the way: {', '.join(in_the_way)}",
                ["Move them elsewhere, or commit them on the branch that they belong to."],
            )
        )
    elsewhere, entries = git.elsewhere(), journal.entries() if plan.moves else []
    for move in plan.moves:
        found += _obstacles_of(git, move, entries)
        if path := elsewhere.get(move.ref):
            found.append(
                StackError(
                    f"{move.milestone.branch} is checked out in another worktree, {path}: "
                    "git would leave it behind without a word",
                    [f"git -C {shlex.quote(str(path))} switch --detach"],
                )
            )
    return found


def pushes(git: Git, manifest: Manifest, facts: Mapping[str, Fact]) -> list[Push]:
    """Return the branches of a stack that the remote does not have as they are here."""
    remotes = set(git.lines("remote"))
    found: list[Push] = []
    for one in manifest.milestones:
        here = git.commit(f"refs/heads/{one.branch}")
        fact, remote = facts.get(one.key), git.remote_of(one.branch)
        if here is None or fact is None or fact.merged or remote not in remotes:
            continue
        there = git.commit(f"refs/remotes/{remote}/{one.branch}")
        if there != here:
            found.append(Push(one.branch, remote, there))
    return found


def _refuse_other_order(git: Git, manifest: Manifest, facts: Mapping[str, Fact]) -> None:
    """Refuse a manifest in which milestones have changed places since their branches were made.

    The branches then sit on each other in the old order, and no rebase of chains can tell whose
    commits are whose. A branch that is inside of its parent without a commit of its own was
    only begun early; its reflog tells the two apart.
    """
    tool = settings.current().command
    for one in manifest.milestones:
        base, fact = base_of(manifest, one, facts), facts.get(one.key)
        if base is None or fact is None or fact.merged or base[1].merged:
            continue
        inside = fact.commit != base[1].commit and git.is_ancestor(fact.commit, base[1].commit)
        if not inside or not _has_commits(git, one.branch):
            continue
        below = base_of(manifest, base[0], facts)
        onto = manifest.trunk if below is None or below[1].merged else below[0].branch
        upper, lower = base[0].branch, one.branch
        left = git.merge_base(onto, lower) or onto
        raise StackError(
            f"{one.key} comes after {base[0].key} in the manifest, and {upper} sits on {lower}: "
            "they have changed places, and nothing was moved",
            [
                "Move the branches into the new order by hand, then restack what is above:",
                f"  git branch was-{one.id} {lower}",
                f"  git rebase --onto {onto} {lower} {upper}",
                f"  git rebase --onto {upper} {left[:12]} {lower}",
                f"  {tool} restack {manifest.stack}",
                f"or bring the old order back in {settings.current().pages}/{manifest.stack}.toml",
            ],
        )


def _hangs_on(chain: Sequence[Move], below: Move, fork: Fork) -> bool:
    """Return whether the rebase of a chain takes along what left its last branch at a fork point.

    Git moves only what points into the range. A lowest branch without a commit of its own points at
    the beginning of the range, so it is moved by itself.
    """
    is_empty = len(chain) == 1 and below.fork.commit == below.tip
    return fork.commit == below.tip and not is_empty


def _has_commits(git: Git, branch: str) -> bool:
    """Return whether a commit was made on a branch here, by its reflog."""
    said = git.attempt("reflog", "show", "--format=%gs", f"refs/heads/{branch}").stdout
    return any(line.startswith(("commit", "cherry-pick")) for line in said.splitlines())


def _bystanders(git: Git, row: list[Move]) -> tuple[str, ...]:
    inside = set(git.lines("rev-list", f"{row[0].fork.commit}..{row[-1].tip}"))
    ours = {move.ref for move in row}
    heads = git.refs("refs/heads/").items()
    return tuple(ref for ref, commit in heads if commit in inside and ref not in ours)


def _untracked(git: Git, plan: Plan) -> list[str]:
    """Return the untracked files that a commit to be checked out would overwrite."""
    untracked = git.untracked()
    needed = {move.tip for move in plan.moves} | {move.base for move in plan.moves}
    return sorted(untracked & set().union(*(git.files(one) for one in needed if untracked)))


def _obstacles_of(git: Git, move: Move, entries: Sequence[Entry]) -> list[StackError]:
    found: list[StackError] = []
    branch = move.milestone.branch
    merges = git.lines("rev-list", "--merges", f"{move.fork.commit}..{move.tip}")
    if merges:
        found.append(
            StackError(
                f"{branch} has a merge commit, {merges[0][:12]}, that a rebase would flatten",
                ["Make its history a line first."],
            )
        )
    if pushed := foreign_push(git, branch, move.tip, entries):
        found.append(pushed)
    return found


def foreign_push(git: Git, branch: str, tip: str, entries: Sequence[Entry]) -> StackError | None:
    """Return what to say of a push to a branch from another clone; None if there was none.

    Parameters
    ----------
    git, branch, tip
        The repository, the branch, and its commit here.
    entries : sequence of Entry
        The journal: a remote may have what a branch once had.
    """
    remote = f"{git.remote_of(branch)}/{branch}"
    there = git.commit(f"refs/remotes/{remote}")
    if there is None or _was_ours(git, there, f"refs/heads/{branch}", tip, entries):
        return None
    return StackError(
        f"{remote} is at {there[:12]}, which was never on {branch}: there was a push",
        [
            f"See what is new there: git log --oneline {branch}..{remote}",
            f"Take it over: git switch {branch} && git reset --keep {remote}",
            f"or, to keep both: git rebase {remote} {branch}",
        ],
    )


def _was_ours(git: Git, there: str, ref: str, tip: str, entries: Sequence[Entry]) -> bool:
    """Return whether what the remote has, the branch has or once had here."""
    reflog = git.attempt("reflog", "show", "--format=%H", ref)
    pages = [refs for entry in entries for refs in (entry.before, entry.after or {})]
    written = [refs[ref] for refs in pages if ref in refs]
    once = {tip, *reflog.stdout.split(), *written}
    return there in once or any(git.knows(one) and git.is_ancestor(there, one) for one in once)
