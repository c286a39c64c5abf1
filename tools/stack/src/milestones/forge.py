"""What a forge is to this tool: where each milestone is a pull request.

A forge is an adapter: it says how a pull request is asked for, opened and changed there, as
commands, and the tool runs them. Adapters come from plugins. A plugin is an object with a
function `milestones_forges`, marked by `hookimpl`, in the entry-point group `milestones`; `gh` and
`bare` are built in. `forge` in ``[tool.milestones]`` says which adapter a repository uses.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import pluggy

from milestones.errors import StackError
from milestones.git import Git

__all__ = [
    "ENTRY_POINTS",
    "Command",
    "Forge",
    "Hooks",
    "Request",
    "Standing",
    "hookimpl",
    "run",
    "web_address",
]

ENTRY_POINTS = "milestones"
"""The group of entry points in which plugins are found."""

hookspec = pluggy.HookspecMarker(ENTRY_POINTS)
hookimpl = pluggy.HookimplMarker(ENTRY_POINTS)

Command = Sequence[str]
"""The words of a command."""

# Of an address: user@host:path, or scheme://user@host:port/path; .git at the end does not count.
_SCP = re.compile(r"^(?:[^@/:]+@)?(?P<host>[^/:]+\.[^/:]+):(?P<path>[^/].*?)(?:\.git)?/?$")
_URL = re.compile(
    r"^(?:https?|ssh|git)://(?:[^@/]+@)?(?P<host>[^/:]+)(?::\d+)?/(?P<path>.+?)(?:\.git)?/?$"
)


@dataclass(frozen=True)
class Request:
    """A pull request as it is to be.

    Parameters
    ----------
    key : str
        The milestone.
    branch, base : str
        The branch that is to be merged, and the one that it is to be merged into.
    title, body : str
        Its text.
    draft : bool
        Whether it still waits for something before a review.
    labels : tuple of str
        Labels that it is to have. Others that it has stay.
    """

    key: str
    branch: str
    base: str
    title: str
    body: str
    draft: bool
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """A pull request as it is on the forge; fields as those of `Request`.

    Parameters
    ----------
    number : int
        Its number.
    state : {"open", "closed", "merged"}
        What has become of it.
    head : str
        The commit of its branch as the forge last saw it; empty if that is not known.
    """

    number: int
    state: Literal["open", "closed", "merged"]
    base: str
    title: str
    body: str
    draft: bool
    labels: tuple[str, ...] = ()
    head: str = ""


class Forge(Protocol):
    """An adapter."""

    @property
    def name(self) -> str:
        """What the setting `forge` calls it."""

    def obstacle(self) -> str:
        """Return why the forge cannot be asked from here; empty if it can."""

    def look(self, git: Git, branch: str, number: int | None) -> Standing | None:
        """Ask for the pull request of a branch; None if it has none.

        Raises
        ------
        StackError
            The forge does not answer, or it has no pull request of this number.
        """

    def open(self, wanted: Request) -> list[Command]:
        """Return what opens a pull request."""

    def number(self, said: str) -> int | None:
        """Return the number of a new pull request, by what the last command of `open` wrote."""

    def retarget(self, number: int, base: str) -> list[Command]:
        """Return what gives a pull request another base."""

    def change(self, wanted: Request, standing: Standing) -> list[Command]:
        """Return what makes the rest of a pull request as it is to be; nothing if it is so."""

    def wait(self, name: str) -> list[Command]:
        """Return what waits for the checks of a pull request; `name` is its number or branch."""

    def merge(self, name: str, tip: str, subject: str, body: str) -> list[Command]:
        """Return what squashes a pull request; nothing if there are none.

        The forge has to refuse if the branch is not at `tip` any more.
        """

    def link(self, address: str, branch: str, path: str) -> str:
        """Return the address of a file on the forge; empty if there is no such thing."""

    def reference(self, number: int) -> str:
        """Return how the text of a pull request refers to another one."""


class Hooks:
    """What a plugin may have."""

    @hookspec
    def milestones_forges(self) -> list[Forge]:
        """Return the adapters of a plugin."""
        raise NotImplementedError


def run(git: Git, command: Command) -> str:
    """Run a command in the repository and return what it wrote.

    Raises
    ------
    StackError
        It failed, or it is not at hand; the text has its words.
    """
    try:
        done = subprocess.run(
            command,
            cwd=git.root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise StackError(f"{command[0]} is not at hand") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()) or "it said nothing"
        raise StackError(f"{shlex.join(command[:4])} ended with {done.returncode}: {said}")
    return done.stdout


def web_address(url: str) -> str:
    """Return the page of a repository by the address that git fetches from; empty if none.

    Examples
    --------
    >>> web_address("git@github.com:kvpool/kvpool.git")
    'https://github.com/kvpool/kvpool'
    >>> web_address("/srv/git/kvpool.git")
    ''
    """
    found = _URL.match(url) or _SCP.match(url)
    return f"https://{found['host']}/{found['path']}" if found else ""
