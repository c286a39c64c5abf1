"""The repository of the current directory, and what there is to know of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from milestones import settings
from milestones.errors import StackError
from milestones.evidence import Found, Store
from milestones.facts import Fact, survey
from milestones.git import Git, GitError
from milestones.manifest import Manifest, Milestone, load_all
from milestones.status import StackStatus, compute

__all__ = ["Here", "root_and_git"]


@dataclass
class Here:
    """A repository with its stacks, and where their milestones are on a day."""

    git: Git
    stacks: dict[str, Manifest]
    facts: dict[str, Fact]
    today: date

    @classmethod
    def find(cls) -> Here:
        """Look around in the current directory."""
        git = Git.at(Path.cwd())
        stacks = load_all(git.root)
        return cls(git, stacks, survey(git, stacks), datetime.now(UTC).date())

    def found(self) -> list[Found]:
        """Read the records."""
        return Store(self.git).read()

    def statuses(self) -> list[StackStatus]:
        """Compute the state of every milestone."""
        return compute(self.stacks, self.facts, self.found(), self.today)

    def chosen(self, names: Iterable[str] | None) -> list[Manifest]:
        """Return the stacks of some names; all of them, if there is no name.

        Raises
        ------
        StackError
            There is no such stack.
        """
        for name in names or ():
            if name not in self.stacks:
                raise StackError(f"there is no stack {name!r}; there are {', '.join(self.stacks)}")
        return [one for name, one in self.stacks.items() if not names or name in names]

    def checked_out(self) -> str:
        """Return the key of the milestone whose branch is checked out.

        Raises
        ------
        StackError
            There is none.
        """
        return self.found_milestone()[1].key

    def found_milestone(self) -> tuple[Manifest, Milestone]:
        """Return the milestone whose branch is checked out, and its stack.

        Raises
        ------
        StackError
            There is none.
        """
        head = self.git.head().removeprefix("refs/heads/")
        for manifest in self.stacks.values():
            for one in manifest.milestones:
                if one.branch == head:
                    return manifest, one
        raise StackError(
            f"{head} is the branch of no milestone",
            ["Check one out (`log` shows them), or give names to a command that takes them."],
        )


def root_and_git() -> tuple[Path, Git | None]:
    """Return the root of the current tree, and its repository if it is in one.

    Raises
    ------
    StackError
        The current directory is neither in a repository nor in a tree with manifests.
    """
    here = Path.cwd()
    try:
        git = Git.at(here)
    except GitError:
        for root in (here, *here.parents):
            if (root / settings.current().directory).is_dir():
                return root, None
        raise
    return git.root, git
