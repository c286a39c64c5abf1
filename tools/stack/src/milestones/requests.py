"""The text of the pull requests of a stack.

What the tool writes stands between marks. What people write around it stays, and the trailer is
the last line, where git looks for it after a squash by the button of a forge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milestones import regions, settings
from milestones.facts import TRAILER
from milestones.forge import Forge
from milestones.land import message
from milestones.manifest import Manifest, Milestone
from milestones.status import MilestoneStatus, State

__all__ = ["body", "merged_into", "title"]

_REGION = "request"


def title(manifest: Manifest, milestone: Milestone) -> str:
    """Return the title of a pull request; it ends in ``(n/N)``."""
    return message(manifest, milestone)[0]


def body(
    manifest: Manifest,
    status: MilestoneStatus,
    statuses: Sequence[MilestoneStatus],
    numbers: Mapping[str, int],
    forge: Forge,
    address: str,
) -> str:
    """Return what the tool writes into a pull request, without marks.

    Parameters
    ----------
    manifest, status
        The stack, and the milestone.
    statuses : sequence of MilestoneStatus
        All milestones of the stack.
    numbers : mapping
        The pull requests that are known, by milestone.
    forge : Forge
        Says how links and references are written.
    address : str
        The page of the repository; empty if there is none.
    """
    one, pages = status.milestone, settings.current().pages

    def link(text: str, path: str) -> str:
        there = forge.link(address, one.branch, path)
        return f"[{text}]({there})" if there else text

    stack = link(manifest.title, f"{pages}/STATUS.md")
    page = link(f"the page of {one.key}", f"{pages}/{one.key}.md")
    needs = [key for key in (one.parent, *one.depends) if key != manifest.trunk]
    return "\n".join(
        [
            f"Milestone {one.position} of {stack}; more is on {page}.",
            "",
            *(f"* {line}" for line in one.scope),
            "",
            f"Needs: {', '.join(needs) or 'nothing'}. Next: {one.next}",
            f"Gates: {status.evidence.text}.",
            "",
            "The stack, in the order in which it is merged:",
            "",
            *(_row(other, numbers, forge, here=other is status) for other in statuses),
            *(["", one.reference] if one.reference else []),
        ]
    )


def merged_into(old: str, text: str, milestone: Milestone) -> str:
    """Return the whole text of a pull request.

    Parameters
    ----------
    old : str
        As it is on the forge; what stands outside of the marks stays.
    text : str
        What the tool writes.
    milestone : Milestone
        Whose pull request it is.

    Raises
    ------
    RegionError
        The marks in the old text do not fit together.
    """
    trailer = f"{TRAILER}: {milestone.key}"
    lines = [line for line in old.splitlines() if not line.startswith(f"{TRAILER}: ")]
    page = "\n".join(lines).strip()
    if not regions.names(page):
        page = f"{page}\n\n{regions.mark(_REGION, '')}".strip()
    return f"{regions.replace(page, {_REGION: text}).strip()}\n\n{trailer}"


def _row(status: MilestoneStatus, numbers: Mapping[str, int], forge: Forge, *, here: bool) -> str:
    one = status.milestone
    known = f"{forge.reference(numbers[one.key])} " if one.key in numbers else ""
    name = f"{known}{one.title}"
    text = f"**{name}**" if here else name
    if here:
        return f"{one.id}. {text} (this one)"
    return f"{one.id}. {text} ({status.state})" if _says(status) else f"{one.id}. {text}"


def _says(status: MilestoneStatus) -> bool:
    """Return whether the state of another milestone is worth a word: it changes seldom."""
    return status.state in (State.MERGED, State.PLANNED)
