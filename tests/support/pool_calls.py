"""Every call of a pool that needs its accounts, for tests of what all of them do."""

from __future__ import annotations

from collections.abc import Callable

from kvpool.pool import MemoryBlock, MemoryPool
from kvpool.stats import CopyReason
from tests.support.sessions import LAYOUT

__all__ = ["POOL_CALLS"]

_GEOMETRY = LAYOUT.geometry(8)

POOL_CALLS: dict[str, Callable[[MemoryPool, MemoryBlock], object]] = {
    "allocate": lambda pool, _: pool.allocate(64),
    "allocate_evicting": lambda pool, block: pool.allocate_evicting(64, [block]),
    "check_integrity": lambda pool, _: pool.check_integrity(),
    "commit": lambda pool, block: pool.commit(block, None, 0, 4),
    "committed_bytes": lambda pool, _: pool.committed_bytes(),
    "count_copied_fork": lambda pool, _: pool.count_copied_fork(CopyReason.ARENA),
    "deallocate": lambda pool, block: pool.deallocate(block),
    "fork": lambda pool, block: pool.fork(block, 4),
    "is_leased": lambda pool, block: pool.is_leased(block),
    "is_live": lambda pool, block: pool.is_live(block),
    "lease": lambda pool, block: pool.lease(block),
    "make_room": lambda pool, block: pool.make_room(64, [block]),
    "ranges": lambda pool, _: pool.ranges(),
    "reclaim": lambda pool, block: pool.reclaim(block),
    "reserve": lambda pool, _: pool.reserve(_GEOMETRY),
    "reserve_evicting": lambda pool, block: pool.reserve_evicting(_GEOMETRY, [block]),
    "resize": lambda pool, _: pool.resize(1 << 19),
    "stats": lambda pool, _: pool.stats(),
    "trim": lambda pool, block: pool.trim(block, 4),
    "usage": lambda pool, _: pool.usage(),
    "view": lambda pool, block: pool.view(block, "u1", 4),
    "write_lease": lambda pool, block: pool.write_lease(block, None, 0, 4),
    "zero_range": lambda pool, _: pool.zero_range(0, 64),
}
