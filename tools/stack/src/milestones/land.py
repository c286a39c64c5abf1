"""Merge a milestone as one commit that is proved to be what was verified.

The proof: merging the branch into the trunk, computed by git without touching anything, gives
the tree of the branch itself. So what passed the gates is what will be on the trunk.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from milestones import settings
from milestones.errors import StackError
from milestones.facts import TRAILER, Trunk, base_of, find_trunk
from milestones.forge import Command, Forge
from milestones.forks import ref_of
from milestones.git import Change, Git
from milestones.journal import Journal
from milestones.manifest import Manifest, Milestone
from milestones.restack import Push, pushes
from milestones.status import MilestoneStatus, State

__all__ = ["Landing", "commands", "fetch", "message", "plan", "run_forge", "squash"]


@dataclass(frozen=True)
class Landing:
    """A milestone that may land.

    Parameters
    ----------
    manifest : Manifest
        Its stack.
    status : MilestoneStatus
        Its state, with its place and its evidence.
    trunk : Trunk
        Where it lands.
    tree : str
        The tree of the squash, which is that of the branch.
    children : tuple of Milestone
        The milestones that are based on it.
    push : Push or None
        What has to be pushed before; None if the remote is up to date, or there is none.
    """

    manifest: Manifest
    status: MilestoneStatus
    trunk: Trunk
    tree: str
    children: tuple[Milestone, ...]
    push: Push | None

    @property
    def milestone(self) -> Milestone:
        """What the manifest says of it."""
        return self.status.milestone


def message(manifest: Manifest, milestone: Milestone) -> tuple[str, str]:
    """Return subject and body of the squash; the trailer stands last, where git looks for it."""
    subject = f"{manifest.title}: {milestone.title} ({milestone.position})"
    scope = "\n".join(f"* {line}" for line in milestone.scope)
    parts = [scope, milestone.reference, f"{TRAILER}: {milestone.key}"]
    return subject, "\n\n".join(part for part in parts if part)


def plan(
    git: Git,
    stacks: Mapping[str, Manifest],
    statuses: Mapping[str, MilestoneStatus],
    key: str,
) -> Landing:
    """Prove that a milestone may land.

    Parameters
    ----------
    git, stacks
        The repository and its manifests.
    statuses : mapping
        The state of every milestone, by key.
    key : str
        The milestone.

    Raises
    ------
    StackError
        It may not; the text says why, the hint what to do.
    """
    if key not in statuses:
        raise StackError(f"there is no milestone {key!r}; there are {', '.join(statuses)}")
    status = statuses[key]
    manifest = stacks[key.partition("/")[0]]
    trunk = find_trunk(git, manifest.trunk)
    if status.fact is None or trunk is None:
        raise StackError(f"{key} is {status.state}: there is nothing to land", [status.todo])
    if status.state is not State.READY:
        why = f"{status.state}{f' ({status.why})' if status.why else ''}"
        hint = (
            [f"{settings.current().command} {status.todo}"]
            if status.todo.startswith("verify")
            else []
        )
        raise StackError(f"{key} is {why}, and only what is ready lands", hint)
    facts = {name: one.fact for name, one in statuses.items() if one.fact is not None}
    base = base_of(manifest, status.milestone, facts)
    needed = [*([base[0].key] if base else []), *status.milestone.depends]
    for other in needed:
        if statuses[other].state is not State.MERGED:
            raise StackError(f"{key} lands after {other}, which is {statuses[other].state}")
    tree = _squash_tree(git, trunk, key, status.fact.commit, status.fact.tree)
    children = tuple(one for one in manifest.milestones if one.parent == key)
    push = next((p for p in pushes(git, manifest, facts) if p.branch == _branch(status)), None)
    return Landing(manifest, status, trunk, tree, children, push)


def commands(landing: Landing, forge: Forge) -> list[Command]:
    """Return what lands it on the forge, in order: the next is retargeted before the merge.

    A forge may close a pull request whose base branch is deleted.
    """
    one = landing.milestone
    name = str(one.pr) if one.pr is not None else one.branch
    subject, body = message(landing.manifest, one)
    listed: list[Command] = [landing.push.words] if landing.push else []
    listed += forge.wait(name)
    for child in landing.children:
        if child.pr is not None:
            listed += forge.retarget(child.pr, landing.trunk.name)
    return [*listed, *forge.merge(name, _tip(landing), subject, body)]


def run_forge(
    git: Git, landing: Landing, forge: Forge, journal: Journal, say: Callable[[str], None]
) -> None:
    """Land it on the forge.

    Raises
    ------
    StackError
        The forge cannot be asked from here or merges nothing, the pull request is not open, or a
        command failed; those after it did not run.
    """
    without = f"{settings.current().command} land {landing.milestone.key} --local --execute"
    if obstacle := forge.obstacle():
        raise StackError(
            f"{obstacle}, so nothing was done",
            [
                "Install it, or run the commands above where it is, or land without a forge:",
                f"  {without}",
            ],
        )
    if not forge.merge("", "", "", ""):
        raise StackError(f"the forge {forge.name!r} merges nothing", [f"Land here: {without}"])
    remote = git.remote_of(landing.trunk.name)
    has_remote = remote in git.lines("remote")
    if has_remote:
        _refuse_if_moved(git, landing, remote)
    _refuse_if_closed(git, landing, forge)
    operation = f"land {landing.milestone.key}"
    entry = journal.begin(operation, _refs(landing))
    _record_forks(git, landing, operation)
    for command in commands(landing, forge):
        say(shlex.join(command))
        status = subprocess.run(command, cwd=git.root, check=False).returncode
        if status != 0:
            raise StackError(f"{shlex.join(command[:4])} ended with {status}; nothing after it ran")
    journal.end(entry, operation)
    if has_remote:
        _compare(git, landing, remote)


def _refuse_if_moved(git: Git, landing: Landing, remote: str) -> None:
    """Ask the remote, and refuse if the trunk or the branch is not what the proof is about."""
    fetch(git, remote)
    key, trunk = landing.milestone.key, landing.trunk
    there = git.commit(f"refs/remotes/{remote}/{trunk.name}")
    tool = settings.current().command
    if there is not None and not git.is_ancestor(there, trunk.commit):
        raise StackError(
            f"{trunk.name} has moved on {remote} to {there[:12]}; the proof is about "
            f"{trunk.commit[:12]}. Nothing was merged",
            [f"{tool} restack {landing.manifest.stack} --execute", f"{tool} verify {key}"],
        )
    branch, pushed = landing.milestone.branch, landing.push
    there = git.commit(f"refs/remotes/{remote}/{branch}")
    expected = pushed.lease if pushed is not None else _tip(landing)
    if there != expected:
        raise StackError(
            f"{branch} is at {(there or 'nothing')[:12]} on {remote}, and not at "
            f"{(expected or 'nothing')[:12]}: there was another push. Nothing was merged",
            [f"See what is new there: git log --oneline {branch}..{remote}/{branch}"],
        )


def _refuse_if_closed(git: Git, landing: Landing, forge: Forge) -> None:
    """Ask the forge for the state of the pull request, before anything depends on it."""
    one = landing.milestone
    standing = forge.look(git, one.branch, one.pr)
    if standing is None:
        tool = settings.current().command
        raise StackError(
            f"{one.branch} has no pull request: nothing was merged",
            [f"{tool} submit {landing.manifest.stack} --execute"],
        )
    name = str(standing.number)
    if standing.state != "open":
        raise StackError(f"the pull request {name} is {standing.state}: nothing was merged")
    if standing.base != landing.trunk.name:
        raise StackError(
            f"the pull request {name} is against {standing.base!r}, and not against "
            f"{landing.trunk.name!r}: nothing was merged"
        )


def _compare(git: Git, landing: Landing, remote: str) -> None:
    """Look at what is on the trunk of the remote now: it has to be the tree that was proved."""
    fetch(git, remote)
    name = f"{remote}/{landing.trunk.name}"
    tree = git.tree(f"refs/remotes/{name}")
    if tree != landing.tree:
        differ = git.lines("diff", "--name-only", landing.tree, tree)
        raise StackError(
            f"{name} has the tree {tree[:12]} now, and not {landing.tree[:12]}, which was "
            f"verified; they differ in {', '.join(differ[:5])}{' …' if len(differ) > 5 else ''}",
            [
                "It was merged all the same. Another merge may have come in between:",
                f"  git log --oneline {landing.trunk.commit[:12]}..{name}",
            ],
        )


def fetch(git: Git, remote: str) -> None:
    """Fetch from a remote.

    Raises
    ------
    StackError
        The remote does not answer, or is not there any more.
    """
    done = git.attempt("fetch", "--quiet", "--prune", remote)
    if done.returncode != 0:
        url = git.attempt("remote", "get-url", remote).stdout.strip()
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise StackError(
            f"the remote {remote} ({url}) does not answer: {last}",
            [f"git remote set-url {remote} ADDRESS, if it has moved"],
        )


def squash(git: Git, landing: Landing, journal: Journal, say: Callable[[str], None]) -> str:
    """Land it without a forge: one commit on the local trunk, and the branch is deleted.

    Returns
    -------
    str
        The new commit.

    Raises
    ------
    StackError
        The trunk is checked out elsewhere, or the working tree has changes; nothing was done.
    """
    trunk = f"refs/heads/{landing.trunk.name}"
    if changed := git.changes():
        names = ", ".join(line[3:] for line in changed)
        raise StackError(f"the working tree has changes: {names}", ["git stash"])
    for branch in (trunk, f"refs/heads/{landing.milestone.branch}"):
        if path := git.elsewhere().get(branch):
            raise StackError(f"{branch} is checked out in another worktree, {path}")
    operation = f"land {landing.milestone.key}"
    entry = journal.begin(operation, [trunk, *_refs(landing)])
    _record_forks(git, landing, operation)
    subject, body = message(landing.manifest, landing.milestone)
    order = ("commit-tree", landing.tree, "-p", landing.trunk.commit, "-F", "-")
    commit = git.run(*order, stdin=f"{subject}\n\n{body}\n")
    here = git.head()
    git.run("switch", "--detach")
    branch = f"refs/heads/{landing.milestone.branch}"
    changes = [Change(trunk, git.commit(trunk), commit)]
    if (tip := git.commit(branch)) is not None:
        changes.append(Change(branch, tip, None))
    git.move(changes, operation)
    git.go_to(trunk if here == branch else here)
    journal.end(entry, operation)
    say(f"{landing.trunk.name} is {commit[:12]} now, and {landing.milestone.branch} is deleted")
    return commit


def _squash_tree(git: Git, trunk: Trunk, key: str, commit: str, tree: str) -> str:
    done = git.attempt("merge-tree", "--write-tree", "--name-only", trunk.commit, commit)
    merged, *rest = done.stdout.splitlines() or [""]
    tool = settings.current().command
    hint = [f"{tool} restack {key.partition('/')[0]}", f"{tool} verify {key}"]
    if done.returncode == 1:
        files = rest[: rest.index("")] if "" in rest else rest
        raise StackError(f"{key} conflicts with {trunk.name}, in {', '.join(files)}", hint)
    if done.returncode != 0:
        raise StackError(f"git merge-tree ended with {done.returncode}: {done.stderr.strip()}")
    if merged != tree:
        differ = git.lines("diff", "--name-only", tree, merged)
        raise StackError(
            f"merged into {trunk.name}, {key} would not be what was verified: "
            f"{', '.join(differ[:5])}{' …' if len(differ) > 5 else ''}",
            hint,
        )
    return merged


def _record_forks(git: Git, landing: Landing, reason: str) -> None:
    """Record where the children leave the branch, before that is deleted."""
    tip = landing.status.fact.commit if landing.status.fact else landing.trunk.commit
    changes = [
        Change(ref_of(child), git.commit(ref_of(child)), tip)
        for child in landing.children
        if (branch := git.commit(f"refs/heads/{child.branch}")) and git.is_ancestor(tip, branch)
    ]
    git.move(changes, reason)


def _refs(landing: Landing) -> Sequence[str]:
    children = [ref_of(child) for child in landing.children]
    return [f"refs/heads/{landing.milestone.branch}", *children]


def _tip(landing: Landing) -> str:
    assert landing.status.fact is not None  # `plan` refuses what has no place
    return landing.status.fact.commit


def _branch(status: MilestoneStatus) -> str:
    return status.milestone.branch
