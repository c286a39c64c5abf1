"""Put a milestone between others: a new one, or a part of one that is there.

No branch that is there moves. A new branch is made, later milestones get the next number, what was
based on the place is based on the new one, and the manifests and pages in the working tree follow.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from tomlkit.items import AoT

from milestones import lines, settings
from milestones.edits import path_of
from milestones.errors import StackError
from milestones.facts import Fact, Trunk, base_of, find_trunk
from milestones.forks import FORKS, find_fork, ref_of
from milestones.git import Change, Git
from milestones.journal import Journal
from milestones.manifest import Manifest, Milestone, load_all

__all__ = ["Description", "Reshaping", "execute", "insert", "split"]


@dataclass(frozen=True)
class Description:
    """What is said of a new milestone; an empty `next` names the one above."""

    title: str
    branch: str
    scope: tuple[str, ...]
    next: str = ""


@dataclass(frozen=True)
class Reshaping:
    """What an insertion or a split does.

    Parameters
    ----------
    operation : str
        What the journal calls it.
    key : str
        The new milestone.
    renamed : mapping
        The new key of each milestone that gets another number, the highest first.
    based : tuple of str
        The milestones, by their new keys, that are based on the new one.
    changes : tuple of Change
        The new branch, and fork points under their new names.
    start : str
        The commit that the new branch is at; empty if no branch is made.
    files : mapping
        The text of each file of the working tree that changes; None: it goes away.
    """

    operation: str
    key: str
    renamed: Mapping[str, str]
    based: tuple[str, ...]
    changes: tuple[Change, ...]
    start: str
    files: Mapping[Path, bytes | None]


@dataclass(frozen=True)
class _Place:
    """Where the new milestone goes: its number, its parent, and what comes to sit on it."""

    manifest: Manifest
    number: int
    parent: str
    above: tuple[Milestone, ...]
    beside: Milestone | None

    @property
    def key(self) -> str:
        return f"{self.manifest.stack}/{self.number}"

    def renamed(self) -> dict[str, str]:
        """Return the new keys, the highest first."""
        stack = self.manifest.stack
        moved = [one.id for one in self.manifest.milestones if one.id >= self.number]
        return {f"{stack}/{id_}": f"{stack}/{id_ + 1}" for id_ in reversed(moved)}


def insert(
    git: Git,
    stacks: Mapping[str, Manifest],
    facts: Mapping[str, Fact],
    after: str,
    described: Description,
) -> Reshaping:
    """Plan a new milestone after another; what was based on that is based on the new one.

    Parameters
    ----------
    git, stacks, facts
        The repository, all stacks, and where milestones are.
    after : str
        The milestone below, or ``STACK/0`` for the beginning of a stack.
    described : Description
        The new milestone.

    Raises
    ------
    StackError
        There is no such place, a milestone that would get another number is merged, the branch is
        there already, or the manifest would not be as it should be.
    """
    manifest, below = _found(stacks, after, first=True)
    if below is None:
        above = manifest.milestones[:1]
        place = _Place(manifest, 1, above[0].parent, tuple(above), above[0])
    else:
        above = [one for one in manifest.milestones if one.parent == below.key]
        place = _Place(manifest, below.id + 1, below.key, tuple(above), below)
    _refuse(git, place, facts, described)
    start = _begin(git, place, facts)
    changes = _moved_forks(git, place, {place.key: start} if start else {})
    files = _files(git, stacks, place, described, None)
    return _reshaping(f"insert {place.key}", git, place, described, start, changes, files)


def split(
    git: Git,
    stacks: Mapping[str, Manifest],
    facts: Mapping[str, Fact],
    key: str,
    at: str,
    described: Description,
) -> Reshaping:
    """Plan to make two milestones of one: what it has up to a commit becomes one of its own, below.

    The rest keeps branch, title and pull request.

    Parameters
    ----------
    git, stacks, facts
        The repository, all stacks, and where milestones are.
    key : str
        The milestone.
    at : str
        The last commit of the lower part.
    described : Description
        The lower part.

    Raises
    ------
    StackError
        The commit is not one in the middle of the milestone; and what `insert` raises.
    """
    manifest, upper = _found(stacks, key, first=False)
    assert upper is not None  # `first` says so
    place = _Place(manifest, upper.id, upper.parent, (upper,), upper)
    _refuse(git, place, facts, described)
    fact, trunk = facts.get(upper.key), find_trunk(git, manifest.trunk)
    if fact is None or trunk is None:
        raise StackError(f"{key} has no branch, so it has no commits to split")
    fork = find_fork(git, manifest, upper, trunk, facts)
    own = git.lines("rev-list", "--topo-order", f"{fork.commit}..{fact.commit}")
    commit = git.commit(at)
    if commit is None or commit not in own[1:]:
        listed = git.lines("log", "--format=  %h %s", f"{fork.commit}..{fact.commit}")
        raise StackError(
            f"{at!r} is not a commit of {key} that others of it follow",
            ["It has, the last one first:", *listed],
        )
    changes = _moved_forks(git, place, {place.key: fork.commit, place.renamed()[key]: commit})
    points = None if upper.fork_point is None else (fork.commit, commit)
    files = _files(git, stacks, place, described, points)
    return _reshaping(f"split {key}", git, place, described, commit, changes, files)


def execute(git: Git, plan: Reshaping, journal: Journal) -> None:
    """Carry out an insertion or a split; one `undo` takes it back, with the files.

    Raises
    ------
    StackError
        A rebase waits; nothing has been done.
    """
    if git.rebase_in_progress():
        hint = ["git rebase --continue", "or git rebase --abort"]
        raise StackError("a rebase waits here", hint)
    refs = [one.ref for one in plan.changes]
    entry = journal.begin(plan.operation, refs, files=list(plan.files))
    git.move(plan.changes, plan.operation)
    for path, text in plan.files.items():
        if text is None:
            (git.root / path).unlink()
        else:
            (git.root / path).parent.mkdir(parents=True, exist_ok=True)
            (git.root / path).write_bytes(text)
    journal.end(entry, plan.operation)


def _found(
    stacks: Mapping[str, Manifest], key: str, *, first: bool
) -> tuple[Manifest, Milestone | None]:
    stack, _, number = key.partition("/")
    if stack in stacks:
        if first and number == "0":
            return stacks[stack], None
        for one in stacks[stack].milestones:
            if one.key == key:
                return stacks[stack], one
    known = [one.key for manifest in stacks.values() for one in manifest.milestones]
    raise StackError(f"there is no milestone {key!r}; there are {', '.join(known)}")


def _refuse(git: Git, place: _Place, facts: Mapping[str, Fact], described: Description) -> None:
    for key in place.renamed():
        if key in facts and facts[key].merged:
            raise StackError(
                f"{key} is merged as {facts[key].commit[:12]}, so it keeps its number, and "
                f"nothing can come before it"
            )
    if git.attempt("check-ref-format", "--branch", described.branch).returncode != 0:
        raise StackError(f"{described.branch!r} is not the name of a branch")
    remote = f"{git.remote_of(described.branch)}/{described.branch}"
    for ref in (f"refs/heads/{described.branch}", f"refs/remotes/{remote}"):
        if git.commit(ref) is not None:
            raise StackError(f"there is a branch {ref} already", ["Say another: --branch NAME"])


def _begin(git: Git, place: _Place, facts: Mapping[str, Fact]) -> str:
    """Return where the branch of a new milestone begins; empty if what is below has none."""
    trunk, manifest = find_trunk(git, place.manifest.trunk), place.manifest
    below = next((one for one in manifest.milestones if one.key == place.parent), None)
    if below is not None and below.key not in facts:
        return ""
    if below is not None and not facts[below.key].merged:
        return facts[below.key].commit
    return "" if trunk is None else _on_trunk(git, place, trunk, facts)


def _on_trunk(git: Git, place: _Place, trunk: Trunk, facts: Mapping[str, Fact]) -> str:
    """Return the commit of the trunk that what is above sits on; without that, its tip."""
    for one in place.above:
        if one.key in facts and not facts[one.key].merged:
            base = base_of(place.manifest, one, facts)
            if base is None or git.is_ancestor(base[1].commit, facts[one.key].commit):
                return git.merge_base(trunk.commit, facts[one.key].commit) or trunk.commit
    return trunk.commit


def _moved_forks(git: Git, place: _Place, new: Mapping[str, str]) -> list[Change]:
    """Return the changes that give each recorded fork point the new key of its milestone."""
    stack = place.manifest.stack
    now = {one.key: git.commit(ref_of(one)) for one in place.manifest.milestones}
    renamed = place.renamed()
    then = {renamed.get(key, key): commit for key, commit in now.items()} | dict(new)
    every = sorted({*now, *then}, key=lambda key: int(key.partition("/")[2]))
    return [
        Change(f"{FORKS}{key}", now.get(key), then.get(key))
        for key in every
        if key.startswith(f"{stack}/") and now.get(key) != then.get(key)
    ]


def _reshaping(
    operation: str,
    git: Git,
    place: _Place,
    described: Description,
    start: str,
    changes: Sequence[Change],
    files: Mapping[Path, bytes | None],
) -> Reshaping:
    made = [Change(f"refs/heads/{described.branch}", None, start)] if start else []
    renamed = place.renamed()
    based = tuple(renamed.get(one.key, one.key) for one in place.above)
    differing = {path: text for path, text in files.items() if _read(git, path) != text}
    return Reshaping(operation, place.key, renamed, based, (*made, *changes), start, differing)


def _read(git: Git, path: Path) -> bytes | None:
    return (git.root / path).read_bytes() if (git.root / path).exists() else None


def _files(
    git: Git,
    stacks: Mapping[str, Manifest],
    place: _Place,
    described: Description,
    points: tuple[str, str] | None,
) -> dict[Path, bytes | None]:
    """Return every file as it is to be: manifests, pages and exported records.

    Raises
    ------
    ManifestError
        A manifest would not be as it should be.
    """
    files: dict[Path, bytes | None] = {}
    for manifest in stacks.values():
        path = path_of(manifest.stack)
        old = (git.root / path).read_bytes()
        text = old.decode("utf-8").replace("\r\n", "\n")
        if manifest.stack == place.manifest.stack:
            text = _with_block(text, place, described)
        text = _renumbered(text, manifest.stack, place, points)
        files[path] = text.replace("\n", "\r\n" if b"\r\n" in old else "\n").encode()
    _check(git, files)
    return files | _moved_pages(git, place)


def _check(git: Git, files: Mapping[Path, bytes | None]) -> None:
    """Read the manifests as they are to be, in a directory of their own."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / settings.current().directory
        shutil.copytree(git.root / settings.current().directory, directory)
        for path, text in files.items():
            (Path(scratch) / path).write_bytes(text or b"")
        load_all(Path(scratch))


def _with_block(text: str, place: _Place, described: Description) -> str:
    """Put the table of the new milestone into the text, above the comment of the one that follows.

    It has the id 0 and no parent until everything is numbered anew.
    """
    issue = place.beside.issue if place.beside is not None else None
    following = described.next or (
        f"{place.above[0].title}." if place.above else "Nothing: it is the last one."
    )
    values: dict[str, object] = {"id": 0, "title": described.title, "branch": described.branch}
    values |= {"parent": place.parent} | ({"issue": issue} if issue is not None else {})
    values |= {"scope": list(described.scope), "next": following}
    block = "".join(f"{key} = {tomlkit.item(value).as_string()}\n" for key, value in values.items())
    block = f"[[milestone]]\n{block}"
    line = lines.lines_of(text).get(("milestone", place.number - 1))
    if line is None:
        return f"{text.rstrip()}\n\n{block}"
    rows = text.splitlines(keepends=True)
    at = line - 1
    while at > 0 and rows[at - 1].startswith("#"):
        at -= 1
    return f"{''.join(rows[:at])}{block}\n{''.join(rows[at:])}"


def _renumbered(text: str, stack: str, place: _Place, points: tuple[str, str] | None) -> str:
    """Return the text of a manifest with the new numbers in ids, parents and dependencies.

    `points` are the fork points of a lower and an upper part, if the manifest has them.
    """
    renamed = place.renamed()
    document = tomlkit.parse(text)
    tables = document["milestone"]
    assert isinstance(tables, AoT)  # the schema says so
    based = {one.key for one in place.above}
    for table in tables:
        old = f"{stack}/{table['id']}"
        depends = table.get("depends", [])
        for index, needed in enumerate(depends):
            if needed in renamed:
                depends[index] = renamed[needed]
        if stack != place.manifest.stack:
            continue
        if old == f"{stack}/0":
            table["id"] = place.number
            if points is not None:
                table["fork_point"] = points[0]
            continue
        if points is not None and old in based:
            table["fork_point"] = points[1]
        if old in renamed:
            table["id"] = int(renamed[old].partition("/")[2])
        parent = place.key if old in based else renamed.get(table["parent"], table["parent"])
        if parent != table["parent"]:
            table["parent"] = parent
    return tomlkit.dumps(document)


def _moved_pages(git: Git, place: _Place) -> dict[Path, bytes | None]:
    """Return pages under their new names; exported records go, as each names its milestone."""
    directory, records = settings.current().directory, settings.current().records
    renamed = place.renamed()
    pages = {directory / f"{place.key}.md": None} | {
        directory / f"{new}.md": _read(git, directory / f"{old}.md") for old, new in renamed.items()
    }
    return pages | dict.fromkeys((records / f"{old}.json" for old in renamed), None)
