"""What a plugin may provide.

A plugin is a module (or object) that a distribution names in an entry-point group. The name
of the entry point is the plugin's name. Its functions marked with `hookimpl` are called by
kvpool::

    from kvpool.hookspecs import hookimpl

    @hookimpl
    def kvpool_arena_backend() -> ArenaBackend: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # the registries below read the hooks, not the other way round
    from kvpool.arena import ArenaBackend
    from kvpool.eviction import PolicyFactory

__all__ = ["PROJECT", "ArenaBackendSpec", "EvictionPolicySpec", "hookimpl", "hookspec"]

PROJECT = "kvpool"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ArenaBackendSpec:
    """Hooks of the entry-point group ``kvpool.backends``."""

    @hookspec
    def kvpool_arena_backend(self) -> ArenaBackend:
        """Describe the backend and say how to create its arenas.

        Called once, when the backend is chosen or listed. It must be cheap: no memory is
        reserved before `ArenaBackend.create` is called.

        Returns
        -------
        ArenaBackend
        """
        raise AssertionError("a hook specification is never called")


class EvictionPolicySpec:
    """Hooks of the entry-point group ``kvpool.policies``."""

    @hookspec
    def kvpool_eviction_policy(self) -> PolicyFactory:
        """Describe an eviction policy and say how to create it.

        Returns
        -------
        PolicyFactory
        """
        raise AssertionError("a hook specification is never called")
