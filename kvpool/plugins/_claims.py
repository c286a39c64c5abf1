"""Claims: which distribution provides a plugin under which name, and what came of it."""

from __future__ import annotations

import enum
import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["THIS_PROCESS", "Claim", "PluginReport", "PluginState", "PluginWarning", "discover"]

T = TypeVar("T")

THIS_PROCESS = "(this process)"
"""Stands for the distribution of a plugin that was registered by hand."""


@dataclass(frozen=True, eq=False, slots=True)
class Claim:
    """One distribution's claim to a plugin name.

    Parameters
    ----------
    name : str
        The name of the plugin.
    distribution, version : str
        Who claims it.
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
    """A plugin is broken; the text names plugin, distribution, hook and cause."""


class PluginState(enum.StrEnum):
    """Whether a plugin can be chosen, and if not, why."""

    OK = "ok"
    DISABLED = "disabled"
    CONFLICT = "conflict"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class PluginReport(Generic[T]):
    """What a registry knows of one plugin.

    Parameters
    ----------
    name : str
        The name of the entry point.
    distribution, version : str
        Where it comes from; all claimants, joined by commas, where there is a conflict.
    state : PluginState
        Only a plugin in the state `PluginState.OK` can be chosen.
    reason : str
        Why it cannot be chosen; empty if it can.
    plugin : T or None
        What its hook returned; None in every state but `PluginState.OK`.
    """

    name: str
    distribution: str
    version: str
    state: PluginState
    reason: str = ""
    plugin: T | None = None


def discover(group: str) -> dict[str, tuple[Claim, ...]]:
    """Collect the claims to each name in an entry-point group, one for each distribution.

    Nothing is imported. A distribution that is on the path twice, as an editable install
    beside an older one, counts once: `importlib.metadata` keeps the first, as an import does.

    Parameters
    ----------
    group : str
        The entry-point group.

    Returns
    -------
    dict of str to tuple of Claim
        At least one claim for each name.
    """
    found: dict[str, dict[str, Claim]] = {}
    for entry in importlib.metadata.entry_points(group=group):
        distribution = _field(entry, "Name") or "(unknown distribution)"
        claim = Claim(entry.name, distribution, _field(entry, "Version"), entry.load)
        found.setdefault(entry.name, {}).setdefault(distribution, claim)
    return {name: tuple(claims.values()) for name, claims in found.items()}


def _field(entry: importlib.metadata.EntryPoint, key: str) -> str:
    """Return a field of the distribution's metadata; empty where an install is damaged."""
    metadata = entry.dist.metadata if entry.dist else None
    return metadata[key] if metadata and key in metadata else ""
