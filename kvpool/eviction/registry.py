"""The eviction policies, and the choice of one."""

from __future__ import annotations

from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import EvictionPolicySpec
from kvpool.plugins import PluginKind, PluginRegistry

__all__ = ["create_policy", "registry"]

_BUILTINS = ("arc", "fifo", "gdsf", "hit-density", "lfu", "lru", "s3-fifo", "sieve", "slru")

registry = PluginRegistry(
    PluginKind(
        "eviction policy",
        group="kvpool.policies",
        hook="kvpool_eviction_policy",
        spec=EvictionPolicySpec,
        provides=PolicyFactory,
        builtins={name: f"kvpool.eviction.{name.replace('-', '_')}" for name in _BUILTINS},
        default="lru",
        disabled_variable="KVPOOL_DISABLED_POLICIES",
    )
)
"""The eviction policies of this process."""


def create_policy(name: str | None = None) -> EvictionPolicy:
    """Return a new policy.

    Parameters
    ----------
    name : str, optional
        Name of the policy; by default ``"lru"``.

    Raises
    ------
    PluginError
        The policy is unknown or cannot be used; see `PluginRegistry.choose`.
    """
    return registry.choose(name).create()
