"""The eviction policies that can be chosen by name."""

from __future__ import annotations

from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import EvictionPolicySpec
from kvpool.plugins import PluginRegistry

__all__ = ["create_policy", "registry"]

registry: PluginRegistry[PolicyFactory] = PluginRegistry(
    "eviction policy",
    group="kvpool.policies",
    hook="kvpool_eviction_policy",
    spec=EvictionPolicySpec,
    provides=PolicyFactory,
    default="lru",
    disabled_variable="KVPOOL_DISABLED_POLICIES",
)


def create_policy(name: str | None = None) -> EvictionPolicy:
    """Return a new policy.

    Parameters
    ----------
    name : str, optional
        By default ``"lru"``.

    Raises
    ------
    PluginError
        The policy cannot be chosen; the text says why, and lists what there is.
    """
    return registry.choose(name).create()
