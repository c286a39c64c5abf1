"""`PluginKind`: what a registry needs to know of one kind of plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["PluginKind"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginKind(Generic[T]):
    """Describes one kind of plugin, for example the storage backends.

    Parameters
    ----------
    name : str
        What messages call such a plugin, for example ``"backend"``.
    group : str
        Entry-point group in which distributions name their plugins.
    hook : str
        The hook that each plugin implements.
    spec : type
        Class with the specification of `hook`.
    provides : type of T
        What the hook returns.
    builtins : mapping of str to str, optional
        Plugins that come with kvpool: name and module, as an entry point has them. They are
        there even if the metadata of kvpool is not found, and are imported when chosen.
    default : str, optional
        Name of the plugin to take if neither a caller nor the environment chooses.
    choice_variable : str, optional
        Environment variable that names the plugin to take if no caller chooses.
    disabled_variable : str, optional
        Environment variable with the names of plugins to block, separated by commas.
    """

    name: str
    group: str
    hook: str
    spec: type
    provides: type[T]
    builtins: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    choice_variable: str | None = None
    disabled_variable: str | None = None
