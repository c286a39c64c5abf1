"""Write the pages of `docs/stack`, and say where they are not what they should be.

The pages are a function of files in the same tree: the manifests, the exported records, and
`records/state.json`, the facts that git told when it was last asked. So a page can be checked
in any clone, and in an old commit, without the branches and notes of the one who wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from milestones import pages, regions, settings
from milestones.changes import Changes, measure
from milestones.conflicts import resolved
from milestones.errors import StackError
from milestones.evidence import Store, judge, read_pages
from milestones.facts import Fact, find_trunk, survey
from milestones.forks import find_fork
from milestones.git import Git
from milestones.journal import Journal
from milestones.manifest import Manifest, Milestone, needed_by, schema
from milestones.records import Record
from milestones.status import compute

__all__ = ["Drift", "check", "read_facts", "refresh", "write"]

# Whether an exclusion has expired depends on the day, and a page must not.
_NO_DAY = date.min


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    facts: dict[str, Fact]


@dataclass(frozen=True)
class Drift:
    """Something that is not what it should be; `not_checked` counts what could not be checked."""

    problems: tuple[str, ...]
    checked: int
    not_checked: int


def read_facts(root: Path) -> dict[str, Fact]:
    """Read the facts that were written down; no facts, if that was not done yet.

    Raises
    ------
    StackError
        The file is not as it should be.
    """
    path = root / _state()
    if not path.exists():
        return {}
    try:
        return _State.model_validate_json(path.read_text(encoding="utf-8")).facts
    except ValidationError as error:
        raise StackError(f"{_state().as_posix()}: {error}") from error


def _state() -> Path:
    return settings.current().records / "state.json"


def refresh(git: Git, stacks: Mapping[str, Manifest]) -> None:
    """Write down what git and the notes say now: the facts, and the best record of each tree."""
    facts = survey(git, stacks)
    for manifest in stacks.values():
        for one in manifest.milestones:
            if one.key in facts and not facts[one.key].merged:
                fork = _fork_point(git, manifest, one, facts)
                facts[one.key] = facts[one.key].model_copy(update={"fork_point": fork})
            if one.key in facts:
                changes = _changes(git, one, facts[one.key])
                facts[one.key] = facts[one.key].model_copy(update={"changes": changes})
    store = Store(git)
    found = store.read()
    for key, fact in facts.items():
        evidence = judge(found, key, fact.tree)
        if evidence.record is not None and evidence.verdict != "other":
            store.export(evidence.record)
    state = _State(facts=dict(sorted(facts.items())))
    path = git.root / _state()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")


def write(
    root: Path, stacks: Mapping[str, Manifest], commands: Sequence[tuple[str, str]] = ()
) -> list[Path]:
    """Write every page anew, outside of its regions as it is; return those that changed.

    Parameters
    ----------
    root : Path
        The root of the tree.
    stacks : mapping
        Its manifests.
    commands : sequence of tuple
        The commands of the tool, each with what it does.

    Raises
    ------
    RegionError
        The marks of a page do not fit; no page has been written.
    """
    changed = {
        path: text
        for path, text in _pages(root, stacks, commands).items()
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text
    }
    for path, text in changed.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        line_end = "\r\n" if _has_crlf(root / path) else "\n"
        (root / path).write_text(text, encoding="utf-8", newline=line_end)
    return list(changed)


def check(
    root: Path,
    stacks: Mapping[str, Manifest],
    git: Git | None,
    commands: Sequence[tuple[str, str]] = (),
) -> Drift:
    """Compare the pages with what they come from, and that with history where it is at hand.

    Parameters
    ----------
    root : Path
        The root of the tree.
    stacks : mapping
        Its manifests.
    git : Git or None
        The repository; None in a tree that is in none, as from an sdist.
    commands : sequence of tuple
        The commands of the tool, each with what it does.

    Returns
    -------
    Drift
    """
    problems: list[str] = []
    for path, text in _pages(root, stacks, commands).items():
        if not (root / path).exists():
            problems.append(f"{path.as_posix()} is missing")
        elif (root / path).read_text(encoding="utf-8") != text:
            problems.append(f"{path.as_posix()} is not what its records say")
    problems += _strangers(root, stacks)
    found = read_pages(root)
    problems += [f"{one.place}: {one.fault}" for one in found if one.fault]
    facts = read_facts(root)
    if git is None:
        return Drift(tuple(problems), 0, len(facts))
    git.need_history()
    checked = Store(git).checked(found)
    problems += [f"{one.place}: {one.fault}" for one in checked if one.fault]
    trees = {key: fact.tree for key, fact in facts.items()}
    for one in checked:
        record = one.record
        if record is not None and not one.fault and not _is_of_something(git, record, trees):
            problems.append(f"{one.place}: its commit {record.commit[:12]} is not here")
    for key, fact in facts.items():
        problems += _fact_problems(git, key, fact)
    return Drift(tuple(dict.fromkeys(problems)), len(facts), 0)


def _has_crlf(path: Path) -> bool:
    return path.exists() and b"\r\n" in path.read_bytes()


def _fork_point(
    git: Git, manifest: Manifest, milestone: Milestone, facts: Mapping[str, Fact]
) -> str | None:
    """Return a fork point if it is known; that one is not must not keep all else unsaid."""
    trunk = find_trunk(git, manifest.trunk)
    if trunk is None:
        return None
    try:
        return find_fork(git, manifest, milestone, trunk, facts).commit
    except StackError:
        return None


def _changes(git: Git, milestone: Milestone, fact: Fact) -> Changes | None:
    """Return what a milestone changes; None if it is not known where it begins."""
    if fact.merged:
        return measure(git, git.commit(f"{fact.commit}^"), fact.commit)
    if fact.fork_point is None:
        return None
    own = f"{fact.fork_point}..{fact.commit}"
    found = resolved(git, Journal(git).entries(), milestone.branch, own)
    changes = measure(git, fact.fork_point, fact.commit)
    return changes.model_copy(update={"conflicts": found})


def _pages(
    root: Path, stacks: Mapping[str, Manifest], commands: Sequence[tuple[str, str]]
) -> dict[Path, str]:
    """Return the text of every generated file, by its path relative to the root."""
    statuses = compute(stacks, read_facts(root), read_pages(root), _NO_DAY)
    directory = settings.current().directory
    texts = {directory / "schema.json": schema()}
    status = directory / "STATUS.md"
    texts[status] = _page(
        root / status, pages.status_skeleton(), pages.status_regions(statuses, commands)
    )
    for stack in statuses:
        for one in stack.milestones:
            path = directory / f"{one.milestone.key}.md"
            text = pages.milestone_regions(stack, one, needed_by(stacks, one.milestone.key))
            texts[path] = _page(root / path, pages.milestone_skeleton(), text)
    return texts


def _page(path: Path, skeleton: str, texts: Mapping[str, str]) -> str:
    present = path.read_text(encoding="utf-8") if path.exists() else skeleton
    try:
        return regions.replace(present, texts)
    except regions.RegionError as error:
        raise regions.RegionError(f"{path}: {error}") from error


def _strangers(root: Path, stacks: Mapping[str, Manifest]) -> list[str]:
    """Return pages and records of milestones that are in no manifest."""
    known = {one.key for manifest in stacks.values() for one in manifest.milestones}
    here = settings.current()
    names = [*(root / here.directory).glob("*/*.md"), *(root / here.records).glob("*/*.json")]
    strangers = {
        path.relative_to(root).as_posix(): f"{path.parent.name}/{path.stem}"
        for path in sorted(names)
    }
    claims = [(_state().as_posix(), key) for key in read_facts(root)]
    claims += strangers.items()
    return [f"{place}: {key} is not a milestone" for place, key in claims if key not in known]


def _is_of_something(git: Git, record: Record, trees: Mapping[str, str]) -> bool:
    """Return whether the tree of a record is here, and its commit or its milestone as well.

    The commit itself is gone where the branch was squashed; its tree is then on the trunk.
    """
    if not git.knows(f"{record.tree}^{{tree}}"):
        return False
    return git.knows(record.commit) or trees.get(record.milestone) == record.tree


def _fact_problems(git: Git, key: str, fact: Fact) -> list[str]:
    """Compare one fact with a history that has its commit."""
    place = f"{_state().as_posix()}: {key}"
    if not git.knows(f"{fact.commit}^{{commit}}"):
        return [f"{place}: the commit {fact.commit[:12]} is not here"]
    if git.tree(fact.commit) != fact.tree:
        return [f"{place}: {fact.tree[:12]} is not the tree of {fact.commit[:12]}"]
    if fact.merged and not git.is_ancestor(fact.commit, "HEAD"):
        return [f"{place}: {fact.commit[:12]} is not in the history of HEAD"]
    if fact.merged and fact.changes is not None:
        true = measure(git, git.commit(f"{fact.commit}^"), fact.commit)
        if fact.changes != true:
            return [f"{place}: its changes are not those of {fact.commit[:12]}"]
    return []
