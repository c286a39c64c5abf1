"""What the tests of elastic pools share: a layout of whole pages, and managers over it."""

from __future__ import annotations

from typing import Any

from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool
from tests.support.page_counts import kernel_bytes
from tests.support.sessions import Tokens, key_of, random_tokens, same_bits

__all__ = [
    "CONTEXT",
    "PAGE",
    "PAGES",
    "PAPER",
    "elastic_manager",
    "holds",
    "more_tokens",
    "new_fork",
    "new_session",
    "pages_in_use",
    "session_ids",
]

PAGE = 4096
PAPER = KVLayout(layers=2, kv_heads=2, head_dim=256, dtype="float32")
"""Four tokens of a head fill a page."""
PAGES = 2 * 2 * 2
"""Pages that one more page of every stripe takes: of keys and values, layers, heads."""
CONTEXT = 64


def elastic_manager(pages: int, backend: str, **options: Any) -> KVCacheManager:
    """Return a manager of an elastic pool that may commit so many pages."""
    named: dict[str, Any] = {"elastic": True, "receipts": False} | options
    return KVCacheManager(pages * PAGE, backend, PAPER, **named)


def more_tokens(entry: KVCacheEntry, count: int, seed: int) -> Tokens:
    """Append random tokens to all layers, and return them."""
    tokens = random_tokens(PAPER, count, seed)
    entry.extend(*tokens)
    return tokens


def holds(entry: KVCacheEntry, *parts: Tokens) -> bool:
    """Tell whether an entry holds these tokens, one after the other, and no others."""
    keys, values, start = entry.keys(), entry.values(), 0
    for part in parts:
        end = start + part.keys.shape[2]
        if not same_bits(keys[:, :, start:end], part.keys):
            return False
        if not same_bits(values[:, :, start:end], part.values):
            return False
        start = end
    return start == entry.token_count


def pages_in_use(manager: KVCacheManager) -> int:
    """Return the pages in use, of which the kernel must say the same."""
    pool = manager.pool
    assert isinstance(pool, ElasticPool)
    manager.check_integrity()
    used = manager.get_stats().used_memory
    assert kernel_bytes(pool) == used
    assert used % PAGE == 0
    return used // PAGE


def session_ids(manager: KVCacheManager) -> list[object]:
    """Return the ids of the sessions that are there, the oldest first."""
    return [key.id for key in manager.session_keys()]


def new_session(manager: KVCacheManager, number: int, count: int) -> tuple[KVCacheEntry, Tokens]:
    """Make a session with some tokens."""
    entry = manager.create_cache_entry(key_of(number), CONTEXT)
    return entry, more_tokens(entry, count, number)


def new_fork(manager: KVCacheManager, number: int, new: int) -> KVCacheEntry:
    """Fork one session into another."""
    return manager.fork_cache_entry(key_of(number), key_of(new))
