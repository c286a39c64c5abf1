"""Find the adapter of a forge among the plugins."""

from __future__ import annotations

import pluggy

from milestones import bare, github, settings
from milestones.errors import StackError
from milestones.forge import ENTRY_POINTS, Forge, Hooks

__all__ = ["choose"]


def choose(name: str = "") -> Forge:
    """Return the adapter of a name; without a name, the one that the settings say.

    Raises
    ------
    StackError
        There is no adapter of this name, or several have it.
    """
    wanted = name or settings.current().forge
    manager = pluggy.PluginManager(ENTRY_POINTS)
    manager.add_hookspecs(Hooks)
    manager.register(github)
    manager.register(bare)
    manager.load_setuptools_entrypoints(ENTRY_POINTS)
    every: list[Forge] = [one for row in manager.hook.milestones_forges() for one in row]
    fits = [one for one in every if one.name == wanted]
    if len(fits) > 1:
        raise StackError(f"{len(fits)} plugins have a forge {wanted!r}", ["Remove one of them."])
    if not fits:
        names = ", ".join(sorted(one.name for one in every))
        raise StackError(
            f"there is no forge {wanted!r}; there are {names}",
            ["Say one of them, or install the plugin of this one."],
        )
    return fits[0]
