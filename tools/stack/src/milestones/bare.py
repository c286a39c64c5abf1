"""A remote that is no more than a repository: branches are pushed, and no forge is asked."""

from __future__ import annotations

from milestones.forge import Command, Forge, Request, Standing, hookimpl
from milestones.git import Git

__all__ = ["Bare", "milestones_forges"]


class Bare:
    """The adapter for a remote without pull requests."""

    name = "bare"

    def obstacle(self) -> str:
        """Return an empty text: there is nothing to ask."""
        return ""

    def look(self, git: Git, branch: str, number: int | None) -> Standing | None:
        """Return None: there are no pull requests."""
        del git, branch, number
        return None

    def open(self, wanted: Request) -> list[Command]:
        """Return no command."""
        del wanted
        return []

    def number(self, said: str) -> int | None:
        """Return None."""
        del said
        return None

    def retarget(self, number: int, base: str) -> list[Command]:
        """Return no command."""
        del number, base
        return []

    def change(self, wanted: Request, standing: Standing) -> list[Command]:
        """Return no command."""
        del wanted, standing
        return []

    def wait(self, name: str) -> list[Command]:
        """Return no command."""
        del name
        return []

    def merge(self, name: str, tip: str, subject: str, body: str) -> list[Command]:
        """Return no command."""
        del name, tip, subject, body
        return []

    def link(self, address: str, branch: str, path: str) -> str:
        """Return an empty text: files have no address there."""
        del address, branch, path
        return ""

    def reference(self, number: int) -> str:
        """Return a number as it is."""
        return str(number)


@hookimpl
def milestones_forges() -> list[Forge]:
    """Return the adapters of this plugin."""
    return [Bare()]
