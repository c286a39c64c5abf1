"""What a restack could not put together by itself, and how that was resolved.

It need not be written down: the journal has the branch before and after, and git tells once more
which files of each commit contradict each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from milestones.git import IDENTITY, Git
from milestones.journal import Entry

__all__ = ["Conflict", "resolved"]


class Conflict(BaseModel):
    """A file of a commit that contradicted what the branch was moved onto.

    Parameters
    ----------
    subject : str
        The subject of the commit.
    path : str
        The file.
    resolution : str
        What became of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    subject: str
    path: str
    resolution: str


def resolved(git: Git, entries: Sequence[Entry], branch: str, own: str) -> list[Conflict]:
    """Return the conflicts of the last restack that moved a branch, in the order of its commits.

    Parameters
    ----------
    git : Git
        The repository.
    entries : sequence of Entry
        The journal, the newest entry first.
    branch : str
        The branch.
    own : str
        The range of its own commits now. One that was amended since is not compared.
    """
    ref = f"refs/heads/{branch}"
    for entry in entries:
        old, new = entry.before.get(ref), (entry.after or {}).get(ref)
        moved = ref in entry.moves and old is not None and new is not None and old != new
        if moved and entry.operation.startswith("restack"):
            before = _commits(git, f"{new}..{old}")
            after = _commits(git, own)
            pairs = [(before[key], after[key]) for key in after if key in before]
            return [one for pair in pairs for one in _of_commit(git, *pair)]
    return []


def _commits(git: Git, range_: str) -> dict[str, str]:
    """Return commits by what a rebase does not change: author, when, and subject."""
    lines = git.lines("log", "--reverse", "--format=%H %an <%ae> %at %s", range_)
    return {key: commit for commit, _, key in (line.partition(" ") for line in lines)}


def _of_commit(git: Git, old: str, new: str) -> list[Conflict]:
    """Merge the change of a commit with what it was put on, as the rebase did."""
    base, onto = git.commit(f"{old}^"), git.commit(f"{new}^")
    if base is None or onto is None or git.tree(base) == git.tree(onto):
        return []
    root = git.run("commit-tree", git.tree(base), "-m", "base", env=IDENTITY)
    ours, theirs = (
        git.run("commit-tree", git.tree(one), "-p", root, "-m", "side", env=IDENTITY)
        for one in (onto, old)
    )
    order = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z")
    done = git.attempt(*order, ours, theirs)
    if done.returncode != 1:  # 0: there is no conflict; others: git cannot say
        return []
    subject = git.run("log", "-1", "--format=%s", new)
    paths = dict.fromkeys(path for path in done.stdout.split("\0")[1:] if path)
    return [
        Conflict(subject=subject, path=path, resolution=_resolution(git, old, new, path))
        for path in paths
    ]


def _resolution(git: Git, old: str, new: str, path: str) -> str:
    def blob(commit: str) -> str:
        return git.run("ls-tree", "--full-tree", commit, "--", path)

    result = blob(new)
    if not result:
        return "removed"
    if result == blob(f"{new}^"):
        return "as what it was moved onto has it"
    if result == blob(old):
        return "as the commit had it"
    added, removed, _ = git.run("diff-tree", "-r", "--numstat", old, new, "--", path).split("\t")
    return f"put together by hand: +{added} -{removed} lines against the commit"
