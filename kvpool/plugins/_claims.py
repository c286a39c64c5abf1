"""Claims of distributions to plugin names, and reports on the plugins."""

from __future__ import annotations

import enum
import importlib.metadata
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Generic, TypeVar

from kvpool.__about__ import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvpool.plugins._kind import PluginKind

__all__ = ["THIS_PROCESS", "Claim", "PluginReport", "PluginState", "PluginWarning", "discover"]

T = TypeVar("T")

THIS_PROCESS = "(this process)"
"""The distribution in reports on a plugin that was registered by hand."""

OURS = "kvpool"
"""The distribution of the built-in plugins."""


@dataclass(frozen=True, eq=False, slots=True)
class Claim:
    """One distribution's claim to a plugin name.

    Parameters
    ----------
    name : str
        The name of the plugin.
    distribution, version : str
        The distribution that claims it.
    load : callable
        Imports the plugin and returns it, a module or an object.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


class PluginWarning(UserWarning):
    """A plugin is broken; the text names the plugin, its distribution, the hook and the cause."""


class PluginState(enum.StrEnum):
    """Whether a plugin can be chosen, and if not, why."""

    OK = "ok"
    DISABLED = "disabled"
    CONFLICT = "conflict"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class PluginReport(Generic[T]):
    """The state of one plugin.

    Parameters
    ----------
    name : str
        The name of the entry point.
    distribution, version : str
        Its distribution; in a conflict all that claim the name, joined by commas.
    state : PluginState
        Only a plugin in the state `PluginState.OK` can be chosen.
    reason : str
        Why the plugin cannot be chosen; empty if it can.
    plugin : T or None
        What the hook of the plugin returned; None unless the state is `PluginState.OK`.
    """

    name: str
    distribution: str
    version: str
    state: PluginState
    reason: str = ""
    plugin: T | None = None


def discover(kind: PluginKind[T]) -> dict[str, tuple[Claim, ...]]:
    """Collect the claims to each name of one kind of plugin, at most one per distribution.

    Parameters
    ----------
    kind : PluginKind
        Names the entry-point group, and the built-in plugins.

    Returns
    -------
    dict of str to tuple of Claim
        At least one claim for each name.

    Notes
    -----
    Nothing is imported. A distribution that is on the path twice, for example an editable
    install next to an older one, counts once: `importlib.metadata` puts the first one first, as
    an import does.

    A built-in plugin needs no entry point. An entry point that names the same module, or any
    that kvpool's own metadata has for this name, is the same plugin: metadata may be of an older
    version, and another distribution may contain a copy of kvpool.
    """
    found = {
        name: {OURS: Claim(name, OURS, __version__, EntryPoint(name, target, kind.group).load)}
        for name, target in kind.builtins.items()
    }
    for entry in importlib.metadata.entry_points(group=kind.group):
        distribution = _field(entry, "Name") or "(unknown distribution)"
        if kind.builtins.get(entry.name) == entry.value:
            continue
        claim = Claim(entry.name, distribution, _field(entry, "Version"), entry.load)
        found.setdefault(entry.name, {}).setdefault(distribution, claim)
    return {name: tuple(claims.values()) for name, claims in found.items()}


def _field(entry: EntryPoint, key: str) -> str:
    """Return a field of the distribution's metadata; empty if the install is damaged."""
    metadata = entry.dist.metadata if entry.dist else None
    return metadata[key] if metadata and key in metadata else ""
