"""The journal of what the tool did to refs, so that each step can be undone.

Before it moves anything, an operation writes an entry with every ref of the repository. An
entry is a commit whose parents are the entry before it and all the commits that it names: as
long as the journal is there, git collects nothing of what it could bring back.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from milestones.git import IDENTITY, NOTHING, Git

__all__ = ["JOURNAL", "Entry", "Journal"]

JOURNAL = "refs/stack/journal"

# Every ref that an operation may move or look at; not the journal itself.
_RECORDED = ("refs/heads/", "refs/remotes/", "refs/stack/fork/", "refs/notes/gates")

_FILE = "entry.json"


class _Page(BaseModel):
    """An entry as it is kept. The beginning and the end of an operation are one page each."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    operation: str
    at: str
    head: str
    refs: dict[str, str]
    moves: list[str] = []
    ends: str | None = None
    undoes: str | None = None
    files: dict[str, str | None] = {}


class Entry(BaseModel):
    """One operation.

    Parameters
    ----------
    id : str
        The commit that its beginning was written as.
    operation : str
        Its command.
    at : str
        When it began, in UTC.
    head : str
        What was checked out: a full ref, or a commit.
    before : dict
        Every ref as it was.
    moves : list of str
        The refs that it set out to move.
    after : dict or None
        Every ref as it left them; None if it did not come to its end.
    undoes : str or None
        The entry that it undid.
    head_after : str or None
        What it left checked out; None if it did not come to its end.
    files : dict
        The files of the working tree that it set out to change, each with mode and blob; None:
        there was no such file.
    files_after : dict
        Those files as it left them; empty if it did not come to its end.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    operation: str
    at: str
    head: str
    before: dict[str, str]
    moves: list[str]
    after: dict[str, str] | None
    undoes: str | None
    head_after: str | None = None
    files: dict[str, str | None] = {}
    files_after: dict[str, str | None] = {}


class Journal:
    """The entries of a repository.

    Parameters
    ----------
    git : Git
        The repository.
    """

    def __init__(self, git: Git) -> None:
        self.git = git

    def begin(
        self,
        operation: str,
        moves: Sequence[str],
        undoes: str | None = None,
        files: Iterable[Path] = (),
    ) -> str:
        """Write down every ref, and files that are to change; return the id of the entry."""
        names = [path.as_posix() for path in files]
        return self._write(self._page(operation, list(moves), undoes=undoes, files=names))

    def end(self, entry: str, operation: str) -> None:
        """Write down every ref, and those files, after an operation that came to its end."""
        self._write(self._page(operation, ends=entry, files=list(self._read(entry).files)))

    def keep(self, name: str) -> str | None:
        """Store a file of the working tree, and return its mode and blob; None if there is none."""
        path = self.git.root / name
        if path.is_symlink():
            return (
                f"120000 {self.git.run('hash-object', '-w', '--stdin', stdin=str(path.readlink()))}"
            )
        if not path.is_file():
            return None
        mode = "100755" if path.stat().st_mode & stat.S_IXUSR else "100644"
        return f"{mode} {self.git.run('hash-object', '-w', '--no-filters', '--', str(path))}"

    def settle(self, *operations: str) -> None:
        """Close the entries of operations that were stopped and then finished by hand.

        An entry stays open if its branches have other commits since: what the operation itself
        left there is not known any more.
        """
        for one in self.entries():
            is_open = one.after is None and one.operation in operations
            if is_open and all(self.left_by(one, ref) for ref in one.moves):
                self.end(one.id, one.operation)

    def left_by(self, entry: Entry, ref: str) -> bool:
        """Return whether a branch is where an operation that did not end has left it.

        The reflog says who moved it last: the rebase, the tool, or a commit that was made by hand.
        """
        if not ref.startswith("refs/heads/") or self.git.commit(ref) == entry.before.get(ref):
            return True
        said = self.git.attempt("reflog", "show", "-1", "--format=%gs", ref).stdout.strip()
        ours = ("rebase", "rewritten during rebase", entry.operation)
        return said.startswith(ours) or not said

    def entries(self) -> list[Entry]:
        """Return every operation, the newest first."""
        if self.git.commit(JOURNAL) is None:
            return []
        ended: dict[str, _Page] = {}
        found: list[Entry] = []
        # The newest first, so that the end of an operation is read before its beginning.
        for id_ in self.git.lines("rev-list", "--first-parent", JOURNAL)[:-1]:  # not the root
            page = self._read(id_)
            if page.ends is not None:
                ended.setdefault(page.ends, page)
                continue
            end = ended.get(id_)
            entry = Entry(
                id=id_,
                operation=page.operation,
                at=page.at,
                head=page.head,
                before=page.refs,
                moves=page.moves,
                after=None if end is None else end.refs,
                undoes=page.undoes,
                head_after=None if end is None else end.head,
                files=page.files,
                files_after={} if end is None else end.files,
            )
            found.append(entry)
        return found

    def _read(self, id_: str) -> _Page:
        return _Page.model_validate_json(self.git.run("cat-file", "blob", f"{id_}:{_FILE}"))

    def _page(
        self,
        operation: str,
        moves: Sequence[str] = (),
        ends: str | None = None,
        undoes: str | None = None,
        files: Sequence[str] = (),
    ) -> _Page:
        return _Page(
            operation=operation,
            at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            head=self.git.head(),
            refs=self.git.refs(*_RECORDED),
            moves=list(moves),
            ends=ends,
            undoes=undoes,
            files={name: self.keep(name) for name in files},
        )

    def _write(self, page: _Page) -> str:
        text = json.dumps(page.model_dump(mode="json"), indent=1, sort_keys=True)
        blob = self.git.run("hash-object", "-w", "--stdin", stdin=text)
        rows = [f"100644 blob {blob}\t{_FILE}"]
        kept = [one for one in page.files.values() if one is not None]
        for number, one in enumerate(kept):
            mode, id_ = one.split()
            rows.append(f"{mode} blob {id_}\tfile-{number}")
        tree = self.git.run("mktree", stdin="".join(f"{row}\n" for row in rows))
        last = self.git.commit(JOURNAL)
        before = last or self._root()
        parents = dict.fromkeys([before, *self._commits(page.refs, page.head)])
        order = ["commit-tree", tree, "-m", page.operation]
        for parent in parents:
            order += ["-p", parent]
        commit = self.git.run(*order, env=IDENTITY)
        self.git.run("update-ref", JOURNAL, commit, last or NOTHING)
        return commit

    def _root(self) -> str:
        """Return an empty commit: entries go back to it, and not into the project's history."""
        return self.git.run("commit-tree", self.git.run("mktree"), "-m", "journal", env=IDENTITY)

    def _commits(self, refs: Mapping[str, str], head: str) -> list[str]:
        """Return the commits among what refs point at; the first parent is the entry before."""
        ids = [*dict.fromkeys(refs.values()), *([head] if not head.startswith("refs/") else [])]
        asked = self.git.run("cat-file", "--batch-check", stdin="".join(f"{i}\n" for i in ids))
        return [line.split()[0] for line in asked.splitlines() if " commit " in line]
