"""The parts of `kvpool.integrations.lmcache`; nothing else in kvpool imports lmcache."""

from __future__ import annotations

from kvpool.integrations._required import required

__all__: list[str] = []

# The interface of an L2 adapter grows with the releases of LMCache.
required("the L2 adapter of LMCache", "lmcache", "lmcache", lowest=(0, 5, 6), below=(0, 5, 7))
