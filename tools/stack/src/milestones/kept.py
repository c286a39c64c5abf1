"""What a run of gates has written, kept with its record: the log, and JUnit files.

All of it is below one ref, in a tree with a directory for each record, named by its digest. The
ref has no history, so that git collects what was put out: only the newest runs are kept, and no
file is kept that is too large. `git push origin refs/stack/kept` hands it on.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence

from milestones.errors import StackError
from milestones.git import IDENTITY, NOTHING, Git

__all__ = ["KEPT", "bounded", "digests", "keep", "read"]

KEPT = "refs/stack/kept"

_MOST_BYTES = 4_000_000  # of a file; git packs text to a tenth of that
_MOST_RUNS = 40
_ORDER = "order"  # the digests of the runs, the oldest first
_ATTEMPTS = 50  # of moving the ref while others move it


def bounded(name: str, content: bytes) -> tuple[str, bytes]:
    """Return a file as it is kept: the middle of a log that is too long is left out.

    Of another file that is too large, only a note is kept, since half of it would be of no use.
    """
    if len(content) <= _MOST_BYTES:
        return name, content
    if name != "log":
        note = f"{name} has {len(content)} bytes, more than the {_MOST_BYTES} that are kept\n"
        return f"{name}.left-out", note.encode()
    half = _MOST_BYTES // 2 - 100
    left = len(content) - 2 * half
    return name, content[:half] + f"\n… {left} bytes are left out …\n".encode() + content[-half:]


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, as the record has it."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def keep(git: Git, record: str, files: Mapping[str, bytes]) -> None:
    """Keep the files of a run; several processes may do so at once.

    Parameters
    ----------
    git : Git
        The repository.
    record : str
        The digest of the record of the run.
    files : mapping
        The files by their names, each as `bounded` returned it.

    Raises
    ------
    StackError
        Others have moved the ref each time; nothing was kept.
    """
    entries = [f"100644 blob {git.store(data)}\t{name}" for name, data in sorted(files.items())]
    run = git.run("mktree", stdin="".join(f"{line}\n" for line in entries))
    for attempt in range(_ATTEMPTS):
        before = git.commit(KEPT)
        order, runs = _runs(git, before)
        order = [*(one for one in order if one != record), record][-_MOST_RUNS:]
        runs[record] = run
        listed = [f"040000 tree {runs[one]}\t{one}\n" for one in order if one in runs]
        index = git.store("".join(f"{one}\n" for one in order).encode())
        tree = git.run("mktree", stdin="".join([*listed, f"100644 blob {index}\t{_ORDER}\n"]))
        commit = git.run("commit-tree", tree, "-m", "What gates have written", env=IDENTITY)
        if git.attempt("update-ref", KEPT, commit, before or NOTHING).returncode == 0:
            return
        time.sleep(random.uniform(0, min(0.05 * (attempt + 1), 1.0)))
    raise StackError(
        f"{KEPT} was changed by others {_ATTEMPTS} times; the log is not kept there",
        ["The record is saved, and the log is in the git directory, below stack/logs."],
    )


def read(git: Git, record: str, names: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of a run.

    Parameters
    ----------
    git : Git
        The repository.
    record : str
        The digest of the record.
    names : mapping
        The SHA-256 of each file, as the record has it.

    Raises
    ------
    StackError
        They are not here, or are not those that the record names.
    """
    if git.commit(KEPT) is None or not git.lines("ls-tree", f"{KEPT}:", record):
        raise StackError(
            f"what the run of record {record[:12]} has written is not here",
            [f"It may be elsewhere: git fetch origin {KEPT}:{KEPT}"],
        )
    found: dict[str, bytes] = {}
    for name, digest in names.items():
        content = git.blob(f"{KEPT}:{record}/{name}")
        if hashlib.sha256(content).hexdigest() != digest:
            raise StackError(f"{name} of {record[:12]} is not what the record says: {digest[:12]}")
        found[name] = content
    return found


def _runs(git: Git, commit: str | None) -> tuple[Sequence[str], dict[str, str]]:
    """Return the digests in their order, and the tree of each."""
    if commit is None:
        return [], {}
    runs: dict[str, str] = {}
    for line in git.lines("ls-tree", f"{commit}:"):
        head, _, name = line.partition("\t")
        _, kind, id_ = head.split()
        if kind == "tree":
            runs[name] = id_
    return git.lines("cat-file", "blob", f"{commit}:{_ORDER}"), runs
