"""An entry in a pool, and a manager, of each backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, random_tokens


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(1 << 18, backend) as pool:
        yield pool


@pytest.fixture
def entry(pool: MemoryPool) -> KVCacheEntry:
    return KVCacheEntry.create(pool, LAYOUT, 16, "chat/42")


@pytest.fixture
def started(pool: MemoryPool) -> KVCacheEntry:
    """An entry with three of eight tokens."""
    entry = KVCacheEntry.create(pool, LAYOUT, 8, "chat/42")
    entry.extend(*random_tokens(LAYOUT, 3))
    return entry


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(1 << 20, backend, LAYOUT) as manager:
        yield manager
        manager.check_integrity()
