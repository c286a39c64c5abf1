"""Give a staged fix-up to the milestone whose lines it changes.

The change becomes a commit on the branch of that milestone, and what is above follows. Before
anything moves, git merges the trees: the change has to fit there, and the branch that is checked
out has to come out exactly as it is staged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from milestones import blame, replay, restack, settings
from milestones.errors import StackError
from milestones.facts import Fact, base_of, find_trunk
from milestones.git import IDENTITY, Change, Git
from milestones.journal import Journal
from milestones.manifest import Manifest, Milestone

__all__ = ["Absorption", "execute", "plan"]


@dataclass(frozen=True)
class Absorption:
    """What an absorption does.

    Parameters
    ----------
    milestone : Milestone
        The one that gets the change.
    tip : str
        Its last commit now.
    commit : str
        The commit that follows that. It is made, and no branch has it yet.
    files : tuple of str
        The files of the change.
    above : restack.Plan
        How what is above follows.
    """

    milestone: Milestone
    tip: str
    commit: str
    files: tuple[str, ...]
    above: restack.Plan

    @property
    def operation(self) -> str:
        """What the journal calls it."""
        return f"absorb {self.milestone.key}"


def plan(
    git: Git,
    manifest: Manifest,
    here: Milestone,
    facts: Mapping[str, Fact],
    journal: Journal,
    *,
    into: str = "",
    message: str = "",
) -> Absorption:
    """Find the milestone that a staged change belongs to, and prove that it fits there.

    Parameters
    ----------
    git, manifest, here, facts, journal
        The repository, the stack, the milestone that is checked out, where milestones are, and
        the journal.
    into : str, optional
        The milestone. Without it, the one whose lines the change touches.
    message : str, optional
        The message of the commit. Without it, it names the title of the milestone.

    Raises
    ------
    StackError
        Nothing is staged, lines belong to the trunk or to several milestones, the change does not
        fit on the milestone or below one above, or branches cannot move.
    """
    files = _staged(git)
    _refuse_unsettled(git, manifest, facts)
    chain = _chain(manifest, here, facts)
    target = _chosen(chain, into) if into else _owner(git, manifest, chain, facts)
    tip = facts[target.key].commit
    staged = git.run("write-tree")
    tree = _merged(git, facts[here.key].tree, facts[target.key].tree, staged)
    if isinstance(tree, list):
        raise StackError(
            f"the change does not fit on {target.branch}: it conflicts in {', '.join(tree)}",
            ["It needs what is above. Make it a commit where it is, or a change on that branch."],
        )
    text = message or f"Fix up: {target.title}"
    commit = git.run("commit-tree", tree, "-p", tip, "-F", "-", stdin=f"{text}\n")
    moved = {target.key: facts[target.key].model_copy(update={"commit": commit, "tree": tree})}
    above = restack.plan(git, manifest, {**facts, **moved})
    against = restack.obstacles_of_branches(git, above, journal)
    against += _obstacles_of(git, target, tip, journal)
    replay.refuse(against)
    _prove(git, manifest, here, facts, above, {target.key: tree}, staged)
    return Absorption(target, tip, commit, files, above)


def execute(git: Git, plan: Absorption, journal: Journal, say: Callable[[str], None]) -> None:
    """Carry out an absorption. One `undo` brings back the branches, and the change as it was.

    Raises
    ------
    ConflictError
        A commit above contradicts the change, though its branch as a whole does not; the rebase
        waits.
    """
    head, ref = git.head(), f"refs/heads/{plan.milestone.branch}"
    refs = [ref, *replay.refs_of(plan.above)]
    entry = journal.begin(plan.operation, refs, files=[Path(name) for name in plan.files])
    git.run("switch", "--detach")  # so that no branch moves from under the working tree
    git.run("read-tree", "--reset", "-u", "HEAD")  # the change is in the commit by now
    git.move([Change(ref, plan.tip, plan.commit)], plan.operation)
    replay.carry_out(git, plan.above, plan.operation, head, say)
    git.go_to(head)
    journal.end(entry, plan.operation)


def _staged(git: Git) -> tuple[str, ...]:
    """Return the files that are staged; nothing else may be changed."""
    if git.rebase_in_progress():
        raise StackError("a rebase waits here", ["git rebase --continue", "or git rebase --abort"])
    changes = git.changes()
    if loose := [line[3:] for line in changes if line[1] != " "]:
        raise StackError(
            f"there are changes that are not staged: {', '.join(loose)}",
            [
                "Stage them if they belong to it: git add FILE",
                "or take them back: git restore FILE",
            ],
        )
    if not changes:
        raise StackError("nothing is staged, so there is nothing to absorb", ["git add FILE"])
    return tuple(line[3:] for line in changes)


def _refuse_unsettled(git: Git, manifest: Manifest, facts: Mapping[str, Fact]) -> None:
    waiting = restack.plan(git, manifest, facts)
    if waiting.moves or waiting.notes:
        tool = settings.current().command
        names = ", ".join(move.milestone.branch for move in waiting.moves)
        raise StackError(
            f"{names or manifest.stack} does not sit on what is below; first that",
            [*waiting.notes, f"{tool} restack {manifest.stack} --execute"],
        )


def _chain(manifest: Manifest, here: Milestone, facts: Mapping[str, Fact]) -> list[Milestone]:
    """Return the milestones that the checked-out branch goes through, itself first."""
    found = [here]
    while (base := base_of(manifest, found[-1], facts)) is not None and not base[1].merged:
        found.append(base[0])
    return found


def _chosen(chain: list[Milestone], into: str) -> Milestone:
    for one in chain:
        if one.key == into:
            return one
    names = ", ".join(one.key for one in reversed(chain))
    raise StackError(f"{into!r} is not below what is checked out; there are {names}")


def _owner(
    git: Git, manifest: Manifest, chain: list[Milestone], facts: Mapping[str, Fact]
) -> Milestone:
    """Return the milestone that has every line which the staged change touches."""
    owners = _owners(git, manifest, chain, facts)
    found: set[str] = set()
    told: list[str] = []
    for part in blame.touched(git):
        names = {owners.get(commit, manifest.trunk) for commit in part.commits}
        if part.adds and len(names) > 1:  # beside a line of a milestone it belongs to that
            names.discard(manifest.trunk)
        found |= names or {""}
        place = f"{part.path}:{part.lines[0]}" if part.lines else part.path
        whose = " and ".join(sorted(names)) or "no milestone: it is new, or has no lines"
        told.append(f"  {place} belongs to {whose}")
    fits = [one for one in chain if {one.key} == found]
    if fits:
        return fits[0]
    tool = settings.current().command
    raise StackError(
        "the staged lines do not belong to one milestone, and nothing was changed",
        [
            *told,
            "Stage less (git restore --staged FILE), or say whose it is:",
            *(f"  {tool} absorb --into {one.key}" for one in reversed(chain)),
        ],
    )


def _owners(
    git: Git, manifest: Manifest, chain: list[Milestone], facts: Mapping[str, Fact]
) -> dict[str, str]:
    """Return the milestone of each commit that the checked-out branch has above the trunk."""
    trunk, owners = find_trunk(git, manifest.trunk), dict[str, str]()
    for one in chain:
        base = base_of(manifest, one, facts)
        below = base[1].commit if base is not None and not base[1].merged else ""
        left_out = below or (trunk.commit if trunk is not None else "")
        for commit in git.lines("rev-list", facts[one.key].commit, f"^{left_out}"):
            owners.setdefault(commit, one.key)
    return owners


def _merged(git: Git, base: str, ours: str, theirs: str) -> str | list[str]:
    """Merge three trees; return the tree, or the files in which they conflict."""

    def commit(tree: str, *parents: str) -> str:
        order = ["commit-tree", tree, "-m", "merge"]
        for parent in parents:
            order += ["-p", parent]
        return git.run(*order, env=IDENTITY)

    left = commit(base)
    order = ("merge-tree", "--write-tree", "--name-only", "--no-messages")
    done = git.attempt(*order, commit(ours, left), commit(theirs, left))
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        return lines[0]
    if done.returncode == 1:
        return [line for line in lines[1:] if line]
    raise StackError(f"git merge-tree ended with {done.returncode}: {done.stderr.strip()}")


def _obstacles_of(git: Git, target: Milestone, tip: str, journal: Journal) -> list[StackError]:
    found = [restack.foreign_push(git, target.branch, tip, journal.entries())]
    if path := git.elsewhere().get(f"refs/heads/{target.branch}"):
        text = f"{target.branch} is checked out in another worktree, {path}"
        found.append(StackError(text, [f"git -C {path} switch --detach"]))
    return [one for one in found if one is not None]


def _prove(
    git: Git,
    manifest: Manifest,
    here: Milestone,
    facts: Mapping[str, Fact],
    above: restack.Plan,
    trees: dict[str, str],
    staged: str,
) -> None:
    """Compute the tree of each branch above, and refuse what does not come out right."""
    for move in above.moves:
        base = base_of(manifest, move.milestone, facts)
        assert base is not None  # it moves because its base does
        one = move.milestone.key
        tree = _merged(git, base[1].tree, trees[base[0].key], facts[one].tree)
        if isinstance(tree, list):
            raise StackError(
                f"{one} conflicts with the change, in {', '.join(tree)}; nothing was changed",
                ["It changes the same lines. Make the change there, or stage less."],
            )
        trees[one] = tree
    if trees[here.key] != staged:
        differ = git.lines("diff", "--name-only", staged, trees[here.key])
        raise StackError(
            f"{here.branch} would not come out as it is staged, in {', '.join(differ)}; "
            "nothing was changed"
        )
