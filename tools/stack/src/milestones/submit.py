"""Bring a stack to the forge: each milestone becomes a pull request against the one below it.

The forge is asked first, for every pull request; only then anything is pushed or changed. The order
keeps a forge from taking a pull request for merged: a new branch is pushed first, then requests get
their base, then branches that moved are pushed, and then texts follow.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tomlkit.items import AoT

from milestones import requests, settings
from milestones.edits import edit
from milestones.errors import StackError
from milestones.facts import Fact, base_of, find_trunk
from milestones.forge import Command, Forge, Request, Standing, run, web_address
from milestones.git import Git
from milestones.journal import Journal
from milestones.manifest import Manifest, Milestone
from milestones.restack import Push, foreign_push, pushes
from milestones.status import MilestoneStatus, StackStatus, State

__all__ = ["Part", "Submission", "commands", "execute", "plan", "write_numbers"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A milestone that is submitted.

    Parameters
    ----------
    status : MilestoneStatus
        The milestone and its state.
    base : str
        The branch that it is to be merged into.
    draft : bool
        Whether it waits for something before a review.
    standing : Standing or None
        Its pull request as it is; None if there is none yet.
    """

    status: MilestoneStatus
    base: str
    draft: bool
    standing: Standing | None

    @property
    def milestone(self) -> Milestone:
        """What the manifest says of it."""
        return self.status.milestone


@dataclass(frozen=True)
class Submission:
    """What a submission of one stack does.

    Parameters
    ----------
    stack : StackStatus
        The stack.
    forge : Forge
        The adapter.
    address : str
        The page of the repository; empty if there is none.
    pushes : tuple of Push
        Branches that the remote does not have as they are here.
    parts : tuple of Part
        What has a pull request or gets one, the lowest first.
    numbers : mapping
        The pull requests that are known, by milestone.
    notes : tuple of str
        What is left out, and why.
    """

    stack: StackStatus
    forge: Forge
    address: str
    pushes: tuple[Push, ...]
    parts: tuple[Part, ...]
    numbers: Mapping[str, int]
    notes: tuple[str, ...]


def plan(
    git: Git,
    stack: StackStatus,
    forge: Forge,
    journal: Journal,
    *,
    draft: bool | None = None,
) -> Submission:
    """Ask the forge, and plan what brings it up to date.

    Parameters
    ----------
    git, stack, forge, journal
        The repository, the stack, the adapter, and the journal.
    draft : bool, optional
        Whether requests are drafts. Without it, each is one until its milestone is ready.

    Raises
    ------
    StackError
        There is no remote, a branch does not sit on its parent, another clone has pushed, or a
        pull request is closed or merged.
    """
    manifest = stack.manifest
    facts = {one.milestone.key: one.fact for one in stack.milestones if one.fact is not None}
    remote = _remote(git, manifest)
    waiting = [one for one in stack.milestones if one.fact is not None and not one.fact.merged]
    _refuse(git, manifest, waiting, journal)
    notes: list[str] = []
    parts: list[Part] = []
    numbers = {one.milestone.key: one.milestone.pr for one in stack.milestones}
    for one in waiting:
        milestone = one.milestone
        base = base_of(manifest, milestone, facts)
        onto = manifest.trunk if base is None or base[1].merged else base[0].branch
        if _is_empty(git, manifest, one, base):
            notes.append(f"{milestone.key} has no commit of its own yet, so no pull request")
            continue
        standing = None if forge.obstacle() else forge.look(git, milestone.branch, milestone.pr)
        if standing is not None and _has_ended(git, one, standing):
            standing = None
        if standing is not None:
            numbers[milestone.key] = standing.number
        as_draft = one.state is not State.READY if draft is None else draft
        parts.append(Part(one, onto, as_draft, standing))
    return Submission(
        stack,
        forge,
        web_address(git.attempt("config", "--get", f"remote.{remote}.url").stdout.strip()),
        tuple(pushes(git, manifest, facts)),
        tuple(parts),
        {key: number for key, number in numbers.items() if number is not None},
        tuple(notes),
    )


def commands(submission: Submission) -> Iterator[Command]:
    """Yield the commands in order, as far as they are known before the first one has run.

    The number of a new pull request is not known, so the texts of the others follow once it is.
    """
    yield from _before(submission)
    for part in submission.parts:
        yield from _for(submission, part, submission.numbers)


def execute(git: Git, submission: Submission, say: Say) -> dict[str, int]:
    """Carry out a submission.

    Parameters
    ----------
    git, submission
        The repository, and what to do.
    say : callable
        Is told each command before it runs.

    Returns
    -------
    dict
        The numbers of the pull requests that the manifest does not have, by milestone.

    Raises
    ------
    StackError
        The forge cannot be asked from here, and nothing was done; or a command failed.
    """
    forge = submission.forge
    if obstacle := forge.obstacle():
        raise StackError(
            f"{obstacle}, so nothing was done",
            ["Install it, or run the commands above where it is."],
        )

    perform = _performer(git, submission, say)
    for command in _before(submission):
        perform(command)
    numbers = dict(submission.numbers)
    parts: list[Part] = []
    for part in submission.parts:
        opened = None if part.standing else _open(submission, part, numbers, perform)
        if opened is not None:
            numbers[part.milestone.key] = opened.number
        parts.append(replace(part, standing=part.standing or opened))
    for part in parts:  # now that every number is known
        if part.standing is not None:
            for command in _for(submission, part, numbers):
                perform(command)
    known = {part.milestone.key: part.milestone.pr for part in submission.parts}
    return {key: one for key, one in numbers.items() if known.get(key, one) != one}


def write_numbers(root: Path, manifest: Manifest, numbers: Mapping[str, int]) -> Path:
    """Write numbers of pull requests into the manifest; all else in the file stays as it is.

    Returns
    -------
    Path
        The file, relative to the root.
    """

    def change(tables: AoT) -> None:
        for table in tables:
            number = numbers.get(f"{manifest.stack}/{table['id']}")
            if number is not None:
                table["pr"] = number

    return edit(root, manifest.stack, change)


def _remote(git: Git, manifest: Manifest) -> str:
    remote = git.remote_of(manifest.trunk)
    if remote not in git.lines("remote"):
        raise StackError(
            f"there is no remote {remote!r} to submit to",
            [f"git remote add {remote} ADDRESS"],
        )
    if git.commit(f"refs/remotes/{remote}/{manifest.trunk}") is None:
        raise StackError(
            f"{manifest.trunk} is not known to be on {remote}",
            [f"git fetch {remote}", f"or git push {remote} {manifest.trunk}"],
        )
    return remote


def _refuse(
    git: Git, manifest: Manifest, waiting: Sequence[MilestoneStatus], journal: Journal
) -> None:
    """Refuse what would show the forge something else than the stack."""
    tool = settings.current().command
    entries = journal.entries()
    for one in waiting:
        fact, branch = one.fact, one.milestone.branch
        if fact is not None and not fact.on_parent:
            raise StackError(
                f"{branch} does not sit on what {fact.base} is now, and nothing was submitted",
                [f"{tool} restack {manifest.stack} --execute"],
            )
        tip = git.commit(f"refs/heads/{branch}")
        if tip is not None and (pushed := foreign_push(git, branch, tip, entries)):
            raise pushed


def _is_empty(
    git: Git, manifest: Manifest, one: MilestoneStatus, base: tuple[Milestone, Fact] | None
) -> bool:
    """Return whether a branch was only begun: a forge opens no request without a commit."""
    assert one.fact is not None  # what has no place is not asked about
    trunk = find_trunk(git, manifest.trunk)
    below = base[1].commit if base is not None else trunk.commit if trunk is not None else ""
    return git.is_ancestor(one.fact.commit, below)


def _has_ended(git: Git, status: MilestoneStatus, standing: Standing) -> bool:
    """Return whether a pull request is over, so that a new one has to be opened.

    Raises
    ------
    StackError
        It was merged as it is here, or the manifest says that it is the one and it is over.
    """
    one, number = status.milestone, standing.number
    if standing.state == "open":
        return False
    # A merge that was reverted, or a name that is used again, leaves a request of other commits.
    tip = status.fact.commit if status.fact is not None else ""
    other = git.knows(standing.head) and not git.is_ancestor(standing.head, tip)
    if standing.state == "merged" and not (other and one.pr is None):
        raise StackError(
            f"the pull request {number} of {one.key} is merged already, and nothing was submitted",
            [
                f"{settings.current().command} sync --execute",
                *(["or remove `pr` from the manifest to get a new one"] if other else []),
            ],
        )
    if one.pr is not None:
        raise StackError(
            f"the pull request {number} of {one.key} is closed, and nothing was submitted",
            ["Open it again on the forge, or remove `pr` from the manifest to get a new one."],
        )
    return True


def _performer(git: Git, submission: Submission, say: Say) -> Callable[[Command], str]:
    """Return what runs one command and says what to do if it fails."""

    def perform(command: Command) -> str:
        say(shlex.join(command))
        try:
            return run(git, command)
        except StackError as error:
            again = f"{settings.current().command} submit {submission.stack.manifest.stack}"
            raise StackError(
                f"{error}\nWhat came before it is done; nothing after it ran",
                [f"Put that right, then: {again}"],
            ) from error

    return perform


def _open(
    submission: Submission,
    part: Part,
    numbers: Mapping[str, int],
    perform: Callable[[Command], str],
) -> Standing | None:
    """Open a request, and return it as it is then; None on a forge that has none."""
    wanted = _wanted(submission, part, numbers)
    said = [perform(command) for command in submission.forge.open(wanted)]
    number = submission.forge.number(said[-1]) if said else None
    if number is None:
        return None
    return Standing(
        number, "open", wanted.base, wanted.title, wanted.body, wanted.draft, wanted.labels
    )


def _before(submission: Submission) -> Iterator[Command]:
    """Yield the pushes, and the new bases of requests between them."""
    yield from (one.words for one in submission.pushes if one.lease is None)
    for part in submission.parts:
        number = submission.numbers.get(part.milestone.key)
        standing = part.standing
        moved = standing is not None and standing.base != part.base
        unknown = standing is None and submission.forge.obstacle() != ""
        if number is not None and (moved or unknown):
            yield from submission.forge.retarget(number, part.base)
    yield from (one.words for one in submission.pushes if one.lease is not None)


def _for(submission: Submission, part: Part, numbers: Mapping[str, int]) -> Iterator[Command]:
    """Yield what opens or changes one request."""
    forge, wanted = submission.forge, _wanted(submission, part, numbers)
    number = numbers.get(part.milestone.key)
    if part.standing is not None:
        yield from forge.change(wanted, part.standing)
    elif number is None or forge.obstacle() == "":
        yield from forge.open(wanted)
    else:  # not asked: all that may differ
        unknown = Standing(number, "open", part.base, "", "", not wanted.draft)
        yield from forge.change(wanted, unknown)


def _wanted(submission: Submission, part: Part, numbers: Mapping[str, int]) -> Request:
    manifest, one = submission.stack.manifest, part.milestone
    text = requests.body(
        manifest,
        part.status,
        submission.stack.milestones,
        numbers,
        submission.forge,
        submission.address,
    )
    old = part.standing.body if part.standing is not None else ""
    return Request(
        one.key,
        one.branch,
        part.base,
        requests.title(manifest, one),
        requests.merged_into(old, text, one),
        part.draft,
        tuple(dict.fromkeys([*manifest.labels, *one.labels])),
    )
