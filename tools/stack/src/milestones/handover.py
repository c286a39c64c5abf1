"""Write fork points into a manifest, so that a stack can be handed over to another clone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tomlkit.items import AoT

from milestones.edits import edit
from milestones.facts import Fact, find_trunk
from milestones.forks import Fork, find_fork
from milestones.git import Git
from milestones.manifest import Manifest

__all__ = ["fork_points", "write"]


def fork_points(git: Git, manifest: Manifest, facts: Mapping[str, Fact]) -> dict[int, Fork]:
    """Return where each branch of a stack left its parent, by the number of the milestone.

    Raises
    ------
    StackError
        That of one of them is not known.
    """
    trunk = find_trunk(git, manifest.trunk)
    if trunk is None:
        return {}
    waiting = [one for one in manifest.milestones if one.key in facts]
    return {
        one.id: find_fork(git, manifest, one, trunk, facts)
        for one in waiting
        if not facts[one.key].merged
    }


def write(root: Path, manifest: Manifest, points: Mapping[int, Fork]) -> Path:
    """Write fork points into the manifest of a stack; all else in the file stays as it is.

    Returns
    -------
    Path
        The file, relative to the root.
    """

    def change(tables: AoT) -> None:
        for table in tables:
            fork = points.get(int(table["id"]))
            if fork is not None:
                table["fork_point"] = fork.commit

    return edit(root, manifest.stack, change)
