"""The hooks that plugins implement.

A plugin is a module or object that a distribution names in an entry point. The name of the
entry point is the name of the plugin. kvpool calls its functions that are marked with
`hookimpl`::

    from kvpool.hookspecs import hookimpl

    @hookimpl
    def kvpool_arena_backend() -> ArenaBackend: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # the registries import the hooks, not the other way round
    from kvpool.arena import ArenaBackend
    from kvpool.eviction import PolicyFactory
    from kvpool.tiers import CodecFactory, TierFactory

__all__ = [
    "PROJECT",
    "ArenaBackendSpec",
    "CodecSpec",
    "EvictionPolicySpec",
    "TierSpec",
    "hookimpl",
    "hookspec",
]

PROJECT = "kvpool"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ArenaBackendSpec:
    """Hooks of the entry-point group ``kvpool.backends``."""

    @hookspec
    def kvpool_arena_backend(self) -> ArenaBackend:
        """Describe a backend: its name, its options, and how to create its arenas.

        Called once, when the backend is chosen or listed. It must be cheap, and must not reserve
        memory: `ArenaBackend.create` does that.

        Returns
        -------
        ArenaBackend
        """
        raise AssertionError("a hook specification is never called")


class EvictionPolicySpec:
    """Hooks of the entry-point group ``kvpool.policies``."""

    @hookspec
    def kvpool_eviction_policy(self) -> PolicyFactory:
        """Describe an eviction policy, and how to create it.

        Returns
        -------
        PolicyFactory
        """
        raise AssertionError("a hook specification is never called")


class TierSpec:
    """Hooks of the entry-point group ``kvpool.tiers``."""

    @hookspec
    def kvpool_tier(self) -> TierFactory:
        """Describe a kind of tiers, and how to open one.

        Called once, when a tier of this kind is opened or listed. It must be cheap, and must not
        connect to anything: `TierFactory.open` does that.

        Returns
        -------
        TierFactory
        """
        raise AssertionError("a hook specification is never called")


class CodecSpec:
    """Hooks of the entry-point group ``kvpool.codecs``."""

    @hookspec
    def kvpool_codec(self) -> CodecFactory:
        """Describe a codec of chunks, and how to create it.

        Returns
        -------
        CodecFactory
        """
        raise AssertionError("a hook specification is never called")
