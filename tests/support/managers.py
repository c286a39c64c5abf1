"""What the tests of integrations share that needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager

__all__ = ["MakeManager", "entry_of", "make_manager", "manager"]

MakeManager = Callable[..., KVCacheManager]


@pytest.fixture
def make_manager() -> Iterator[MakeManager]:
    """Make managers that are checked and closed when the test ends."""
    with ExitStack() as stack:

        def make(capacity: int = 1 << 24, backend: str = "numpy", **options: Any) -> KVCacheManager:
            manager = KVCacheManager(capacity, backend, receipts=False, **options)
            stack.enter_context(manager)
            stack.callback(manager.check_integrity)
            return manager

        yield make


@pytest.fixture
def manager(make_manager: MakeManager) -> KVCacheManager:
    return make_manager()


def entry_of(manager: KVCacheManager, key: CacheKey) -> KVCacheEntry:
    """Return the entry of a session."""
    entry = manager.get_cache_entry(key)
    assert isinstance(entry, KVCacheEntry)
    return entry
