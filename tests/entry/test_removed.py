"""An entry that was removed, or whose pool is closed, serves nothing."""

from __future__ import annotations

import pytest

from kvpool.entry._entry import KVCacheEntry, PoolEntry
from kvpool.entry._keeper import PoolRoom
from kvpool.errors import (
    EntryRemovedError,
    PoolClosedError,
)
from kvpool.pool import MemoryPool
from tests.support.entry_calls import GOOD, Call, array, content
from tests.support.sessions import LAYOUT, random_tokens

CALLS: dict[str, Call] = {
    "append": lambda e: e.append(0, GOOD, GOOD),
    "extend": lambda e: e.extend(*[array(2, 3, 2, 5)] * 2),
    "truncate": lambda e: e.truncate(1),
    "key": lambda e: e.key(0),
    "value": lambda e: e.value(0),
    "keys": lambda e: e.keys(),
    "values": lambda e: e.values(),
    "data": lambda e: e.data(),
    "relocate": lambda e: e.relocate(LAYOUT.geometry(8), PoolRoom(e.pool)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_removed_entry_serves_nothing(started: KVCacheEntry, name: str) -> None:
    started.pool.deallocate(started.block)
    successor = KVCacheEntry.create(started.pool, LAYOUT, 8, "another")
    assert successor.block.offset == started.block.offset
    successor.extend(*random_tokens(LAYOUT, 8, 1))
    before, used = content(successor), (started.last_accessed, started.last_use)
    with pytest.raises(EntryRemovedError, match="session 'chat/42' was removed or evicted"):
        CALLS[name](started)
    assert (started.last_accessed, started.last_use) == used
    assert content(successor) == before


@pytest.mark.parametrize("name", CALLS)
def test_an_entry_of_a_closed_pool_serves_nothing(started: KVCacheEntry, name: str) -> None:
    started.pool.close()
    with pytest.raises(PoolClosedError):
        CALLS[name](started)


def test_a_raw_entry_that_was_removed_serves_nothing(pool: MemoryPool) -> None:
    entry = PoolEntry(pool, pool.allocate(100), "raw/1")
    assert entry.data().shape == (100,)
    pool.deallocate(entry.block)
    used = entry.last_accessed, entry.last_use
    with pytest.raises(EntryRemovedError, match="'raw/1'"):
        entry.data()
    assert (entry.last_accessed, entry.last_use) == used
