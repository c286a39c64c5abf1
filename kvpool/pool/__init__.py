"""Memory: blocks of an arena, their leases, pages and forks.

`MemoryPool` hands out blocks. `ElasticPool` opens one that charges the pages that are written,
not whole blocks. `open_pool` opens an elastic pool if the backend can, otherwise a rigid one.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.pool._allocator import FreePlan, OffsetAllocator
from kvpool.pool._block import BlockState, Bytes, MemoryBlock, RootRef
from kvpool.pool._opening import ElasticPool, open_pool
from kvpool.pool._pages import CommittedPages, StripeGeometry
from kvpool.pool._pool import MemoryPool
from kvpool.pool._usage import BlockUsage, Deallocation

__all__ = [
    "BlockState",
    "BlockUsage",
    "Bytes",
    "CommittedPages",
    "Deallocation",
    "ElasticPool",
    "FreePlan",
    "MemoryBlock",
    "MemoryPool",
    "OffsetAllocator",
    "RootRef",
    "StripeGeometry",
    "open_pool",
]

_exports.publish(__name__)
