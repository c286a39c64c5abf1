"""Eviction: the contract of policies, and the reasons of evictions."""

from __future__ import annotations

from kvpool.eviction.base import (
    EvictionPolicy,
    EvictionReason,
    PolicyFactory,
    cost_of,
    names_of,
)

__all__ = ["EvictionPolicy", "EvictionReason", "PolicyFactory", "cost_of", "names_of"]
