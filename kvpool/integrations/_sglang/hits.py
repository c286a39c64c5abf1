"""`leading` and `usable`: what of a prompt can be used when some of its pages are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy

__all__ = ["leading", "usable"]


def leading(there: Sequence[bool]) -> int:
    """Return how many pages are there, from the first one on."""
    return next((at for at, found in enumerate(there) if not found), len(there))


def usable(transfer: Any, there: Sequence[bool]) -> list[int]:
    """Return for how many leading pages of a prompt a further pool has what it needs.

    Parameters
    ----------
    transfer : PoolTransfer
        Says whether the pool needs every page of a prompt, or only those at its end.
    there : sequence of bool
        Which pages the pool has.

    Returns
    -------
    list of int
        Numbers of pages, ascending.
    """
    if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
        return list(range(1, leading(there) + 1))
    window = max(1, len(transfer.keys or ()))
    return [
        count for count in range(1, len(there) + 1) if all(there[max(0, count - window) : count])
    ]
