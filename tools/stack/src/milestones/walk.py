"""Look at a stack as a tree, and walk up and down in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from milestones.errors import StackError
from milestones.facts import Fact
from milestones.manifest import Manifest, Milestone
from milestones.status import MilestoneStatus, StackStatus

__all__ = ["above", "below", "log", "lowest"]


def log(stack: StackStatus, checked_out: str) -> list[str]:
    """Return a stack as lines: the highest milestone first, the trunk last.

    Parameters
    ----------
    stack : StackStatus
        The stack.
    checked_out : str
        The branch that is checked out; its milestone is marked.
    """
    manifest = stack.manifest
    statuses = {one.milestone.key: one for one in stack.milestones}
    lines = [
        _line(statuses[one.key], depth, one.branch == checked_out)
        for depth, one in _tree(manifest, manifest.trunk, 0)
    ]
    return [*reversed(lines), manifest.trunk]


def above(manifest: Manifest, here: Milestone, facts: Mapping[str, Fact]) -> Milestone:
    """Return the milestone with a branch that is the next one above another.

    Raises
    ------
    StackError
        There is none, or there are several.
    """
    found = [one for one in manifest.milestones if _has(one, facts)]
    found = [one for one in found if below(manifest, one, facts) is here]
    if not found:
        raise StackError(f"{here.key} is the highest of {manifest.stack} that has a branch")
    return _only(found, here.key)


def lowest(stacks: Iterable[Manifest], trunk: str, facts: Mapping[str, Fact]) -> Milestone:
    """Return the milestone with a branch that is the next one above the trunk, of all stacks.

    Raises
    ------
    StackError
        There is none, or there are several.
    """
    found = [
        one
        for manifest in stacks
        if manifest.trunk == trunk
        for one in manifest.milestones
        if _has(one, facts) and below(manifest, one, facts) is None
    ]
    if not found:
        raise StackError(f"no milestone with a branch is based on {trunk}")
    return _only(found, trunk)


def _only(found: Sequence[Milestone], base: str) -> Milestone:
    if len(found) == 1:
        return found[0]
    raise StackError(
        f"{len(found)} milestones are based on {base}",
        [f"  git switch {one.branch}" for one in found],
    )


def below(manifest: Manifest, here: Milestone, facts: Mapping[str, Fact]) -> Milestone | None:
    """Return the milestone that another is based on; None if that is the trunk, or is merged."""
    parent = manifest.parent(here)
    while parent is not None and not _has(parent, facts):
        parent = manifest.parent(parent)
    return parent


def _has(one: Milestone, facts: Mapping[str, Fact]) -> bool:
    return one.key in facts and not facts[one.key].merged


def _tree(manifest: Manifest, parent: str, depth: int) -> Iterator[tuple[int, Milestone]]:
    """Yield what is based on a parent; each further one of several stands further right."""
    children = [one for one in manifest.milestones if one.parent == parent]
    for further, one in enumerate(children):
        yield depth + further, one
        yield from _tree(manifest, one.key, depth + further)


def _line(status: MilestoneStatus, depth: int, is_here: bool) -> str:
    one = status.milestone
    gates = f", {status.evidence.text}" if status.fact is not None else ""
    mark = "*" if is_here else "o"
    return f"{'| ' * depth}{mark} {one.position}  {one.branch}  {status.state}{gates}  {one.title}"
