"""Records of gates that ran in a checkout, as in CI, and their way into the notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from milestones import environment, gaterun, kept
from milestones.errors import StackError
from milestones.evidence import Store
from milestones.facts import TRAILER
from milestones.git import Git
from milestones.manifest import Manifest
from milestones.order import Found
from milestones.records import Record, RecordError, parse, seal

__all__ = ["attest", "milestone_of", "take"]


def milestone_of(git: Git, stacks: Mapping[str, Manifest], branch: str, commit: str) -> str | None:
    """Return the milestone of a branch, else that of the trailer of a commit; None if neither."""
    every = [one for manifest in stacks.values() for one in manifest.milestones]
    keys = [one.key for one in every if one.branch == branch]
    trailer = git.run("log", "-1", f"--format=%(trailers:key={TRAILER},valueonly)", commit)
    keys += [one.key for one in every if one.key in trailer.split()]
    return keys[0] if keys else None


def attest(git: Git, milestone: str, commit: str, results: Path, log: Path, started: str) -> Record:
    """Make a record of a run of all gates in the working tree.

    Parameters
    ----------
    git : Git
        The repository; what is checked out is what the gates ran on.
    milestone : str
        The milestone.
    commit : str
        The commit that the record is of. Its tree must be that of what is checked out.
    results, log : Path
        What the script has written: its results, and its output.
    started : str
        When it began, as ``2026-05-06T07:08:09Z``.

    Raises
    ------
    StackError
        Files differ from the commit, or the results are not those of the gates.
    """
    if changed := git.changes():
        names = ", ".join(line[3:] for line in changed)
        raise StackError(f"files differ from what is checked out: {names}")
    id_ = git.commit(commit)
    if id_ is None or git.tree(id_) != git.tree("HEAD"):
        raise StackError(f"the tree of {commit[:40]} is not the one that the gates ran on, of HEAD")
    gates = gaterun.read_results(results, log, git.root)
    keys = environment.keys(git, git.tree("HEAD"))
    return seal(
        milestone=milestone,
        commit=id_,
        tree=keys.tree,
        scope="full",
        definitions=keys.definitions,
        locks=keys.locks,
        interpreters=keys.interpreters,
        tools=keys.tools,
        installed=environment.installed(git.root),
        os=keys.os,
        excluded=[],
        started=started,
        seconds=max(round(sum(one.seconds for one in gates), 1), 0.1),
        exit_code=0 if all(one.passed for one in gates) else 1,
        gates=gates,
        log=kept.digests({"log": log.read_bytes()})["log"],
    )


def take(git: Git, path: Path) -> Record:
    """Add a record that was made elsewhere to the notes.

    Raises
    ------
    StackError
        It is not a record, its commit is not here, or something speaks against it; nothing was
        added.
    """
    try:
        record = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecordError) as error:
        raise StackError(f"{path}: {error}") from error
    if not git.knows(f"{record.commit}^{{commit}}"):
        raise StackError(
            f"{path}: its commit {record.commit[:12]} is not here", ["git fetch --all"]
        )
    store = Store(git)
    (found,) = store.checked([Found(str(path), record.milestone, record)])
    if found.fault:
        raise StackError(f"{path}: {found.fault}")
    store.add(record)
    return record
