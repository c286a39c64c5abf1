"""The repository, through the git command.

A thin layer: each method is one command or two. What git says is never swallowed: a command
that failed raises, with the command, its exit status and its words.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from milestones.errors import StackError

__all__ = ["IDENTITY", "NOTHING", "Change", "Git", "GitError", "Worktree", "environment"]

NOTHING = "0" * 40
"""The id that stands for "there is no such ref"."""

_ID = re.compile(r"[0-9a-f]{40}$")  # of an object, and not the name of something that may move

# The tool's own commits are made where nobody has said who they are, too.
IDENTITY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "stack tool"), ("EMAIL", "stack@invalid"))
}

# Set while git runs a hook or an alias; they would lead every command to another repository.
_OF_ONE_REPOSITORY = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which git speaks English, asks nothing and opens no editor."""
    cleaned = {name: value for name, value in environ.items() if name not in _OF_ONE_REPOSITORY}
    quiet = {"LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true"}
    return cleaned | quiet | {"GIT_PAGER": "cat"}


class GitError(StackError):
    """A git command failed.

    Parameters
    ----------
    command : sequence of str
        What was run.
    status : int
        Its exit status.
    said : str
        What it wrote, errors last.
    """

    def __init__(self, command: Sequence[str], status: int, said: str) -> None:
        # Of the text that git prints on how it is used, what is wrong stands above.
        wrong = said.strip().partition("usage: ")[0].strip() or said.strip().partition("\n")[0]
        super().__init__(f"{shlex.join(command)} ended with {status}:\n{wrong}")
        self.status = status
        self.said = said


@dataclass(frozen=True)
class Worktree:
    """A working tree of the repository; `branch` is the full ref, or None if detached."""

    path: Path
    branch: str | None


@dataclass(frozen=True)
class Change:
    """A ref, the id that it has now, and the id that it shall have; None: there is none."""

    ref: str
    now: str | None
    then: str | None


class Git:
    """A repository and one of its working trees.

    Parameters
    ----------
    root : Path
        The root of the working tree.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees: dict[str, str] = {}  # of commits; an object never changes
        self._ancestry: dict[tuple[str, str], bool] = {}  # of two commits, for the same reason
        self._listings: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    @classmethod
    def at(cls, place: Path) -> Git:
        """Return the repository that a directory lies in."""
        return cls(Path(cls(place).run("rev-parse", "--show-toplevel")))

    def attempt(
        self,
        *arguments: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return subprocess.run(
            ["git", "-c", "core.quotePath=off", *arguments],  # paths as they are, to be pasted
            cwd=self.root,
            input=stdin,
            env=environment() | dict(env or {}),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    def run(
        self, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a command and return what it wrote, without the last line end.

        Raises
        ------
        GitError
            It failed.
        """
        done = self.attempt(*arguments, stdin=stdin, env=env)
        if done.returncode != 0:
            raise GitError(["git", *arguments], done.returncode, done.stdout + done.stderr)
        return done.stdout.removesuffix("\n")

    def lines(self, *arguments: str) -> list[str]:
        """Run a command and return its lines."""
        return self.run(*arguments).splitlines()

    def holds(self, *arguments: str) -> bool:
        """Run a command that answers with its exit status: 0 for yes, 1 for no."""
        done = self.attempt(*arguments)
        if done.returncode not in (0, 1):
            raise GitError(["git", *arguments], done.returncode, done.stdout + done.stderr)
        return done.returncode == 0

    def commit(self, name: str) -> str | None:
        """Return the id of the commit that a name stands for; None if there is none here."""
        done = self.attempt("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return done.stdout.strip() if done.returncode == 0 else None

    def tree(self, commit: str) -> str:
        """Return the id of the tree of a commit."""
        if commit in self._trees:
            return self._trees[commit]
        tree = self.run("rev-parse", "--verify", f"{commit}^{{tree}}")
        if _ID.match(commit):
            self._trees[commit] = tree
        return tree

    def trees(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the tree of each commit or tree that is here, by its id; asks git once."""
        every = list(dict.fromkeys(ids))
        wanted = [one for one in every if one not in self._trees]
        asked = "".join(f"{one}^{{tree}}\n" for one in wanted)
        order = ("cat-file", "--batch-check=%(objectname)")
        answers = self.run(*order, stdin=asked).splitlines() if wanted else []
        for one, answer in zip(wanted, answers, strict=True):
            if not answer.endswith(" missing"):
                self._trees[one] = answer
        return {one: self._trees[one] for one in every if one in self._trees}

    def texts(self, blobs: Iterable[str]) -> dict[str, str]:
        """Return the text of each blob, by its id; asks git once."""
        wanted = list(dict.fromkeys(blobs))
        done = subprocess.run(
            ["git", "cat-file", "--batch"],
            cwd=self.root,
            input="".join(f"{one}\n" for one in wanted).encode(),
            env=environment(),
            capture_output=True,
            check=True,
        )
        found, rest = dict[str, str](), done.stdout
        for one in wanted:
            header, _, rest = rest.partition(b"\n")
            size = int(header.split()[2])
            found[one], rest = rest[:size].decode("utf-8", "replace"), rest[size + 1 :]
        return found

    def store(self, content: bytes) -> str:
        """Write a blob, and return its id."""
        order = ["git", "hash-object", "-w", "--stdin"]
        done = subprocess.run(
            order, cwd=self.root, input=content, env=environment(), capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def listing(self, tree: str, paths: Sequence[str]) -> list[str]:
        """Return what a tree has below some paths: mode, type, id and name, a line each."""
        asked = tree, tuple(paths)
        if asked not in self._listings:
            self._listings[asked] = self.lines("ls-tree", "-r", "--full-tree", tree, "--", *paths)
        return self._listings[asked]

    def changed(
        self, pairs: Sequence[tuple[str, str]], paths: Sequence[str]
    ) -> dict[tuple[str, str], list[str]]:
        """Return the files that differ in each pair of trees, below some paths; asks git once."""
        order = ("diff-tree", "--stdin", "-r", "--name-only", "--no-renames", "--", *paths)
        asked = "".join(f"{old} {new}\n" for old, new in pairs)
        found: dict[tuple[str, str], list[str]] = {pair: [] for pair in pairs}
        headers = {f"{old} {new}": (old, new) for old, new in pairs}
        names: list[str] = []
        for line in self.run(*order, stdin=asked).splitlines() if pairs else ():
            if line in headers:
                names = found[headers[line]] = []
            else:
                names.append(line)
        return found

    def knows(self, name: str) -> bool:
        """Return whether an object is in this repository."""
        return self.attempt("cat-file", "-e", name).returncode == 0

    def need_history(self) -> None:
        """Refuse a shallow clone: what it does not have looks as if it had never been.

        Raises
        ------
        StackError
            The clone is shallow.
        """
        if self.run("rev-parse", "--is-shallow-repository") == "true":
            raise StackError(
                f"{self.root} is a shallow clone: commits before its beginning are not here, so "
                "it is not known what was merged",
                ["git fetch --unshallow"],
            )

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Return whether a commit is an ancestor of another, or the same."""
        asked = older, newer
        if asked in self._ancestry:
            return self._ancestry[asked]
        answer = self.holds("merge-base", "--is-ancestor", older, newer)
        if _ID.match(older) and _ID.match(newer):
            self._ancestry[asked] = answer
        return answer

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the best common ancestor of two commits; None if there is none."""
        done = self.attempt("merge-base", one, other)
        return done.stdout.strip() if done.returncode == 0 else None

    def count(self, commits: str) -> int:
        """Return how many commits a range has."""
        return int(self.run("rev-list", "--count", commits))

    def refs(self, *prefixes: str) -> dict[str, str]:
        """Return every ref below some prefixes, full names, with its id."""
        listed = self.lines("for-each-ref", "--format=%(refname) %(objectname)", *prefixes)
        return {name: id_ for name, _, id_ in (line.partition(" ") for line in listed)}

    def move(self, changes: Iterable[Change], reason: str) -> None:
        """Move refs, all of them or, if one has another id by now, none."""
        orders = ["start"]
        for one in changes:
            now, then = one.now or NOTHING, one.then or NOTHING
            orders.append(f"update {one.ref} {then} {now}")
        orders += ["prepare", "commit", ""]
        self.run("update-ref", "--create-reflog", "-m", reason, "--stdin", stdin="\n".join(orders))

    def remote_of(self, branch: str) -> str:
        """Return the name of the remote that a branch is pushed to."""
        configured = self._remotes.get(branch, ".")
        return "origin" if configured == "." else configured  # a dot: it follows a local branch

    @functools.cached_property
    def _remotes(self) -> dict[str, str]:
        said = self.attempt("config", "--get-regexp", r"^branch\..*\.remote$").stdout
        pairs = (line.partition(" ") for line in said.splitlines())
        return {name[len("branch.") : -len(".remote")]: remote for name, _, remote in pairs}

    def head(self) -> str:
        """Return the full name of the branch that is checked out, or a commit if none is."""
        done = self.attempt("symbolic-ref", "--quiet", "HEAD")
        return done.stdout.strip() if done.returncode == 0 else self.run("rev-parse", "HEAD")

    def go_to(self, head: str) -> None:
        """Check out what `head` returned. Local changes in the way are an error of git."""
        if head.startswith("refs/heads/"):
            self.run("switch", "--no-guess", head.removeprefix("refs/heads/"))
        else:
            self.run("switch", "--detach", head)

    def changes(self) -> list[str]:
        """Return what differs from HEAD, as git status has it; untracked files do not count."""
        order = ("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames")
        return [entry for entry in self.run(*order).split("\0") if entry]

    def untracked(self) -> set[str]:
        """Return the files of the working tree that git neither has nor ignores."""
        listed = self.run("ls-files", "--others", "--exclude-standard", "-z")
        return {name for name in listed.split("\0") if name}

    def files(self, tree: str) -> set[str]:
        """Return the files of a commit or tree."""
        listed = self.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", tree)
        return {name for name in listed.split("\0") if name}

    def blob(self, id_: str) -> bytes:
        """Return a file as it is stored, byte for byte."""
        order = ["git", "cat-file", "blob", id_]
        done = subprocess.run(
            order, cwd=self.root, env=environment(), capture_output=True, check=False
        )
        if done.returncode != 0:
            raise GitError(order, done.returncode, done.stderr.decode(errors="replace"))
        return done.stdout

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process of the tool move refs of this repository in the meantime.

        Raises
        ------
        StackError
            Another one does so now.
        """
        path = self.directory("stack/lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StackError(
                    f"another process ({file.read() or 'just begun'}) moves branches of "
                    f"{self.root} now",
                    ["Wait for it to end, then try again."],
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def directory(self, name: str) -> Path:
        """Return the path of something in the git directory that all worktrees share."""
        common = self.run("rev-parse", "--git-common-dir")
        return (self.root / common).resolve() / name

    def rebase_in_progress(self) -> bool:
        """Return whether a rebase waits in this working tree."""
        order = ("rev-parse", "--git-path", "rebase-merge", "--git-path", "rebase-apply")
        return any((self.root / path).exists() for path in self.lines(*order))

    def worktrees(self) -> list[Worktree]:
        """Return every working tree of the repository, this one too."""
        found: list[Worktree] = []
        for block in self.run("worktree", "list", "--porcelain").split("\n\n"):
            fields = dict(line.partition(" ")[::2] for line in block.splitlines())
            if "worktree" in fields:
                found.append(Worktree(Path(fields["worktree"]), fields.get("branch")))
        return found

    def elsewhere(self) -> dict[str, Path]:
        """Return the branches that other worktrees have checked out, or are rebasing there."""
        here = self.root.resolve()
        others = [one for one in self.worktrees() if one.path.resolve() != here]
        return {one.branch: one.path for one in others if one.branch is not None}
