"""Where records are kept, and which of them count.

Each record is a line of the git note that its commit has under `refs/notes/gates`; lines of
two clones merge by ``git notes merge --strategy cat_sort_uniq``. Records of merged milestones
are exported to `docs/stack/records` as well, so that a clone without the notes has them.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from milestones import environment, order, reuse, settings, signing
from milestones.errors import StackError
from milestones.git import IDENTITY, NOTHING, Git
from milestones.order import Found
from milestones.records import Keys, Record, RecordError, parse, to_line, to_page

__all__ = [
    "NOTES",
    "Evidence",
    "Found",
    "Store",
    "judge",
    "page_of",
    "read_pages",
    "usable",
]

NOTES = "refs/notes/gates"

_ATTEMPTS = 200  # of writing a note while others write theirs

Verdict = Literal["green", "failed", "quick", "other", "none"]


@dataclass(frozen=True)
class Evidence:
    """What all the records together say of one tree of one milestone.

    Parameters
    ----------
    verdict : str
        ``"green"``: all six gates passed, on exactly this tree. ``"failed"``: they ran and
        did not. ``"quick"``: three of six ran. ``"other"``: there are records, all of other
        trees. ``"none"``: there are none.
    record : Record or None
        The newest full record of this tree; else the newest quick one; else, of any tree.
    runs, failures : int
        Full runs on this tree, and how many of those did not pass.
    faults : tuple of str
        What was found and does not count, with the reason.
    """

    verdict: Verdict = "none"
    record: Record | None = None
    runs: int = 0
    failures: int = 0
    faults: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The gates in a few words, for a table."""
        if self.record is None or self.verdict == "none":
            return "no record"
        if self.verdict == "other":
            return "of another tree"
        passed = f"{len(self.record.passed)}/{len(settings.current().gates)}"
        blamed = self.record.environment
        notes = [
            f"{gate}: environment, not code" if gate in blamed else gate
            for gate in self.record.failed
        ]
        if self.verdict == "quick":
            notes.append("quick")
        if self.verdict == "green" and self.failures:
            notes.append(f"{self.failures} of {self.runs} runs failed")
        if self.record.signature is not None:
            known = signing.is_known(self.record)
            notes.append("signed" if known else "signed by a key that is not known here")
        if taken := sum(one.reused is not None for one in self.record.gates):
            notes.append(f"{taken} from earlier runs")
        if self.record.excluded:
            notes.append(f"{len(self.record.excluded)} left out")
        return " ".join([passed, *([f"({', '.join(notes)})"] if notes else [])])


class Store:
    """The records of a repository: its notes, and what its working tree has exported.

    Parameters
    ----------
    git : Git
        The repository.
    """

    def __init__(self, git: Git) -> None:
        self.git = git
        self._of_tree: dict[str, tuple[frozenset[str], str]] = {}

    def read(self) -> list[Found]:
        """Read everything that could be a record, with what speaks against it; the oldest first.

        A record is older than another one of its tree if its commit is an ancestor of that one's,
        else if it was added to the notes before. What a clock said does not matter.
        """
        found = [*self._read_notes(), *read_pages(self.git.root)]
        return self.checked(order.oldest_first(self.git, NOTES, found))

    def checked(self, found: Iterable[Found]) -> list[Found]:
        """Compare records with the repository, as far as that has what they are about."""
        every = list(found)
        records = [one.record for one in every if one.record is not None]
        ids = [id_ for record in records for id_ in (record.commit, record.tree)]
        trees = self.git.trees(ids)
        first = [self._checked(one, trees) for one in every]
        good = {one.record.digest: one.record for one in first if one.record and not one.fault}
        return [self._checked_reuse(one, good) for one in first]

    def add(self, record: Record) -> None:
        """Add a record to the note of its commit; several processes may do so at once.

        Raises
        ------
        StackError
            Others have changed the notes each time; the record has not been added.
        """
        for attempt in range(_ATTEMPTS):
            if self._added(record):
                return
            time.sleep(random.uniform(0, min(0.05 * (attempt + 1), 1.0)))
        raise StackError(
            f"{NOTES} was changed by others {_ATTEMPTS} times; the record is not saved",
            ["Try again, when fewer runs end at the same time."],
        )

    def _added(self, record: Record) -> bool:
        """Write the note beside, and put it in place unless another one came in between."""
        before = self.git.commit(NOTES)
        beside = f"refs/notes/stack-{uuid.uuid4().hex}"
        try:
            if before is not None:
                self.git.run("update-ref", beside, before)
            present = self.git.attempt("notes", "--ref", beside, "show", record.commit)
            kept = present.stdout.splitlines() if present.returncode == 0 else []
            text = "".join(f"{line}\n" for line in sorted({*kept, to_line(record)}))
            blob = self.git.run("hash-object", "-w", "--stdin", stdin=text)
            add = ("notes", "--ref", beside, "add", "--force", "--reuse-message", blob)
            self.git.run(*add, record.commit, env=IDENTITY)
            swap = ("update-ref", NOTES, self.git.run("rev-parse", beside), before or NOTHING)
            return self.git.attempt(*swap).returncode == 0
        finally:
            self.git.attempt("update-ref", "-d", beside)

    def export(self, record: Record) -> Path:
        """Write a record to its file in the working tree."""
        path = self.git.root / page_of(record.milestone)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_page(record), encoding="utf-8", newline="\n")
        return path

    def _read_notes(self) -> Iterable[Found]:
        if self.git.commit(NOTES) is None:
            return
        listed = [line.split() for line in self.git.lines("notes", "--ref", NOTES, "list")]
        texts = self.git.texts(blob for blob, _ in listed)
        for blob, commit in listed:
            place = f"the note of {commit[:12]}"
            for text in texts[blob].splitlines():
                if text:
                    yield _parsed(place, "", text, commit)

    def _checked(self, found: Found, trees: Mapping[str, str]) -> Found:
        record = found.record
        if record is None or found.fault:
            return found
        fault = ""
        if record.signature is not None and not signing.is_valid(record):
            return Found(found.place, found.milestone, record, "its signature does not fit")
        if trees.get(record.commit, record.tree) != record.tree:
            fault = f"names the tree {record.tree[:12]}, which is not that of its commit"
        elif record.tree in trees and not self._fits_its_tree(record):
            fault = "names gates or locks that are not those of its tree"
        return Found(found.place, found.milestone, record, fault)

    def _checked_reuse(self, found: Found, good: Mapping[str, Record]) -> Found:
        if found.record is None or found.fault:
            return found
        return replace(found, fault=reuse.fault(self.git, found.record, good))

    def _fits_its_tree(self, record: Record) -> bool:
        tree = record.tree
        if tree not in self._of_tree:
            defined = environment.all_definitions(self.git, tree)
            self._of_tree[tree] = defined, environment.locks(self.git, tree)
        definitions, locks = self._of_tree[tree]
        return record.definitions in definitions and record.locks == locks


def page_of(milestone: str) -> Path:
    """Return the path of the exported record of a milestone, relative to the root."""
    return settings.current().records / f"{milestone}.json"


def read_pages(root: Path) -> list[Found]:
    """Read the exported records of a working tree; their names say whose they are."""
    found: list[Found] = []
    for path in sorted((root / settings.current().records).glob("*/*.json")):
        place = path.relative_to(root).as_posix()
        milestone = f"{path.parent.name}/{path.stem}"
        found.append(_parsed(place, milestone, path.read_text(encoding="utf-8"), None))
    return found


def judge(found: Sequence[Found], milestone: str, tree: str) -> Evidence:
    """Say what the records come to for one tree of a milestone; they come the oldest first."""
    ours = [one for one in found if one.milestone == milestone]
    faults = tuple(f"{one.place}: {one.fault}" for one in ours if one.fault)
    # The same record may stand in a note and in a file.
    good: dict[str, Record] = {}
    for one in ours:
        if one.record is not None and not one.fault:
            present = good.pop(one.record.digest, None)
            signed = present is not None and present.signature is not None
            good[one.record.digest] = present if present is not None and signed else one.record
    newest_first = list(reversed(good.values()))
    here = [one for one in newest_first if one.tree == tree]
    full = [one for one in here if one.scope == "full"]
    # Where the machine was to blame, that says nothing about the code; an older run may.
    full = [one for one in full if one.judged] or full[:1]
    if full:
        failures = sum(not one.green for one in full)
        verdict: Verdict = "green" if full[0].green else "failed"
        return Evidence(verdict, full[0], len(full), failures, faults)
    if here:
        return Evidence("quick", here[0], faults=faults)
    if newest_first:
        return Evidence("other", newest_first[0], faults=faults)
    return Evidence(faults=faults)


def usable(found: Sequence[Found], milestone: str, keys: Keys, *, quick: bool) -> Record | None:
    """Return the newest record that makes a run needless: every key is equal."""
    evidence = judge(found, milestone, keys.tree)
    record = evidence.record
    if record is None or evidence.verdict in ("none", "other") or record.keys != keys:
        return None
    if not record.judged:
        return None
    return record if quick or record.scope == "full" else None


def _parsed(place: str, milestone: str, text: str, commit: str | None) -> Found:
    try:
        record = parse(text)
    except RecordError as error:
        return Found(place, milestone or _claimed(text), None, str(error))
    if commit is not None and record.commit != commit:
        return Found(place, record.milestone, record, f"is of {record.commit[:12]}")
    if milestone and record.milestone != milestone:
        return Found(place, milestone, record, f"is of {record.milestone}")
    return Found(place, record.milestone, record)


def _claimed(text: str) -> str:
    """Return the milestone that a broken record speaks of, so that it can be shown there."""
    _, _, rest = text.partition('"milestone":')
    return rest.strip().removeprefix('"').partition('"')[0]
