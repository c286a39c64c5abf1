"""Memory: blocks of an arena, their leases, pages and forks.

`MemoryPool` hands out blocks. `ElasticPool` is a pool whose blocks cost the pages that they
have written. `open_pool` opens whichever the backend can give.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.pool._allocator import OffsetAllocator
from kvpool.pool._block import Bytes, MemoryBlock
from kvpool.pool._deallocation import Release
from kvpool.pool._free_plan import FreePlan
from kvpool.pool._opening import ElasticPool, open_pool
from kvpool.pool._pages import RunGeometry
from kvpool.pool._pool import MemoryPool
from kvpool.pool._usage import BlockUsage

__all__ = [
    "BlockUsage",
    "Bytes",
    "ElasticPool",
    "FreePlan",
    "MemoryBlock",
    "MemoryPool",
    "OffsetAllocator",
    "Release",
    "RunGeometry",
    "open_pool",
]

_exports.publish(__name__)
