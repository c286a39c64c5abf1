"""A manager as a mapping of keys to entries, its size, and what it shows of itself."""

from __future__ import annotations

import asyncio
import pickle
import threading
from functools import partial
from html.parser import HTMLParser
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidSizeError,
    InvalidTtlError,
    PoolClosedError,
    PoolExhaustedError,
    UnsupportedError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.manager._task_bell import TaskBell
from kvpool.pool import ElasticPool, MemoryPool
from kvpool.receipts import MemorySink
from tests.support.managers import MakeManager
from tests.support.marks import needs_pages
from tests.support.sessions import key_of, random_tokens

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="float32")  # 512 bytes a token
PAGE_TOKENS = 8  # of 4 KiB


def filled(make: MakeManager, sessions: int = 3, **options: object) -> KVCacheManager:
    manager = make(**{"layout": LAYOUT, "capacity": 1 << 20, **options})
    for number in range(sessions):
        entry = manager.create_cache_entry(key_of(number), 64)
        entry.extend(*random_tokens(LAYOUT, 64, number))
    return manager


# -- a mapping ---------------------------------------------------------------------------


def test_keys_entries_and_iteration(make_manager: MakeManager, backend: str) -> None:
    manager = filled(make_manager, backend=backend)
    raw = manager.allocate_entry(key_of("raw"), 100)
    keys = [key_of(0), key_of(1), key_of(2), key_of("raw")]
    before = manager.get_stats()
    assert manager.keys() == list(manager) == [key for key, _ in manager.items()] == keys
    assert dict(manager.items())[key_of("raw")] is raw
    assert manager.get_stats() == before  # none of these is a use


def test_an_entry_by_its_key(make_manager: MakeManager) -> None:
    manager = filled(make_manager)
    manager.allocate_entry(key_of("raw"), 100)
    assert manager[key_of(1)].token_count == 64
    assert manager.get_stats().hits == 1
    with pytest.raises(EntryNotFoundError, match="no entry for"):
        manager[key_of(9)]
    with pytest.raises(EntryKindError, match="raw"):
        manager[key_of("raw")]
    assert (manager.get_stats().hits, manager.get_stats().misses) == (1, 0)


def test_a_session_may_leave_while_keys_are_iterated_over(make_manager: MakeManager) -> None:
    manager = filled(make_manager)
    for key in manager:
        manager.remove_cache_entry(key)
    assert len(manager) == 0


def test_clear(make_manager: MakeManager, backend: str) -> None:
    manager = filled(make_manager, backend=backend)
    entry, view = manager[key_of(0)], manager[key_of(1)].key(0)
    manager.pin(key_of(2))
    assert manager.clear() == [key_of(0), key_of(1), key_of(2)]
    assert manager.clear() == []
    stats = manager.get_stats()
    assert (len(manager), stats.parting_entries, stats.evictions) == (0, 1, 3)
    with pytest.raises(EntryRemovedError):
        entry.key(0)
    del view
    assert manager.get_stats().used_memory == 0
    manager.check_integrity()


def test_clear_after_the_pool_was_used_past_the_manager() -> None:
    manager = filled(partial(KVCacheManager, receipts=MemorySink()))
    manager.pool.deallocate(manager[key_of(1)].block)
    assert manager.clear() == [key_of(0), key_of(1), key_of(2)]
    assert not manager.keys()
    manager.check_integrity()


def test_clear_also_forgets_held_tokens(make_manager: MakeManager) -> None:
    manager = make_manager(layout=LAYOUT)
    entry, _ = manager.open_session(list(range(20)))
    entry.extend(*random_tokens(LAYOUT, 20, 1))
    manager.close_session(entry, list(range(20)))
    manager.clear()
    assert manager.get_stats().prefix.tokens_held == 0
    assert manager.open_session(list(range(20))).tokens_left == 20


# -- capacities --------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", ["1MiB", "1024 KiB", "1048576", 1 << 20])
def test_a_capacity_as_people_write_it(capacity: int | str, backend: str) -> None:
    with KVCacheManager(capacity, backend, receipts=False) as manager:
        assert manager.pool.capacity == 1 << 20
    with MemoryPool(capacity, backend) as pool:
        assert pool.capacity == 1 << 20


@pytest.mark.parametrize("capacity", ["", "much", "1 M", "-1MiB", "0.3B", "9" * 5000, "63"])
def test_a_capacity_that_is_not_a_size(capacity: str) -> None:
    with pytest.raises(InvalidSizeError):
        KVCacheManager(capacity, "numpy", receipts=False)


@needs_pages
def test_an_address_space_as_people_write_it() -> None:
    with ElasticPool("1MiB", "mmap", "1GiB") as pool:
        assert pool.stats().address_space == 1 << 30


@needs_pages
def test_a_larger_pool_takes_more(make_manager: MakeManager) -> None:
    manager = filled(make_manager, backend="mmap", capacity="96KiB")
    assert manager.resize("1MiB") == []
    assert manager.pool.capacity == manager.get_stats().total_capacity == 1 << 20
    manager.create_cache_entry(key_of(3), 64).extend(*random_tokens(LAYOUT, 64, 3))
    assert len(manager) == 4


@needs_pages
def test_a_smaller_pool_evicts(make_manager: MakeManager) -> None:
    manager = filled(make_manager, backend="mmap")
    manager[key_of(0)]
    assert manager.resize(64 << 10) == [key_of(1)]
    assert manager.resize((32 << 10) + 4095) == [key_of(2)]
    assert manager.pool.capacity == manager.get_stats().used_memory == 32 << 10
    manager.check_integrity()


@needs_pages
def test_what_is_leased_keeps_a_pool_from_shrinking(make_manager: MakeManager) -> None:
    manager = filled(make_manager, backend="mmap")
    with manager[key_of(0)].lease(), manager[key_of(1)].lease():
        with pytest.raises(PoolExhaustedError, match="cannot resize the pool to 32KiB: ") as caught:
            manager.resize("32KiB")
        assert caught.value.leased == 64 << 10
        copied = pickle.loads(pickle.dumps(caught.value))
        assert (str(copied), copied.leased) == (str(caught.value), 64 << 10)
        with pytest.raises(PoolExhaustedError, match="cannot resize the pool to 32768 bytes: "):
            manager.resize(32 << 10)
    assert (manager.pool.capacity, len(manager)) == (1 << 20, 3)


def test_a_pool_whose_size_is_fixed(make_manager: MakeManager) -> None:
    manager = filled(make_manager)
    with pytest.raises(UnsupportedError, match="rigid pool of 1048576 bytes"):
        manager.resize("2MiB")


@needs_pages
@pytest.mark.parametrize("capacity", ["4095", "1 PB", "half", None, 1.5])
def test_a_size_that_a_pool_cannot_have(make_manager: MakeManager, capacity: str) -> None:
    manager = filled(make_manager, backend="mmap")
    with pytest.raises(InvalidSizeError):
        manager.resize(capacity)
    assert (manager.pool.capacity, len(manager)) == (1 << 20, 3)


# -- what is shown -----------------------------------------------------------------------


class Balanced(HTMLParser):
    """Notes whether each tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert dict(attrs).keys() <= {"style", "scope"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_a_manager_shows(make_manager: MakeManager, backend: str) -> None:
    manager = filled(make_manager, backend=backend)
    assert repr(manager) == (
        f"<KVCacheManager {backend}: 1048576 bytes, {3 * 64 * 512} used, 3 sessions>"
    )
    entry = manager[key_of(1)]
    assert repr(entry) == "<KVCacheEntry 'chat/1': 64 of 64 tokens, 32768 bytes>"
    manager.create_cache_entry(CacheKey("<b>", "&"), 8)
    manager.allocate_entry(key_of("raw"), 100)
    for shown in (manager, manager.pool, entry):
        page = Balanced()
        page.feed(shown._repr_html_())
        page.close()
        assert page.open == []
    text = manager._repr_html_()
    for wanted in ("1.0 MiB", "chat/1", "64 tokens", "&lt;b&gt;/&amp;", "raw"):
        assert wanted in text


def test_what_a_closed_manager_shows() -> None:
    manager = KVCacheManager("1MiB", "numpy", LAYOUT, receipts=False)
    manager.close()
    assert "closed" in repr(manager)
    assert "closed" in manager._repr_html_()
    assert "closed" in manager.pool._repr_html_()


def test_many_sessions_are_not_all_shown(make_manager: MakeManager) -> None:
    manager = make_manager(layout=LAYOUT)
    for number in range(30):
        manager.create_cache_entry(key_of(number), 8)
    text = manager._repr_html_()
    assert "the last 20 sessions" in text
    assert "chat/29" in text
    assert "chat/9<" not in text


# -- tasks -------------------------------------------------------------------------------


def full(make: MakeManager) -> KVCacheManager:
    return filled(make, sessions=1, capacity=32 << 10)


def test_a_task_waits_for_room_and_others_run(make_manager: MakeManager) -> None:
    manager = full(make_manager)
    view = [manager[key_of(0)].key(0)]

    async def serve() -> bool:
        make = manager.create_cache_entry
        waiting = asyncio.create_task(manager.when_room(make, key_of("new"), 64, timeout=60))
        for _ in range(3):
            await asyncio.sleep(0.01)
            assert not waiting.done()
        view.clear()
        return (await waiting) is manager[key_of("new")]

    assert asyncio.run(serve())


def test_another_thread_wakes_a_task(make_manager: MakeManager) -> None:
    manager = full(make_manager)
    manager.pin(key_of(0))

    async def serve() -> None:
        unpin = threading.Timer(0.05, manager.unpin, [key_of(0)])
        unpin.start()
        await manager.when_room(manager.make_room, 32 << 10, timeout=60)
        unpin.join()

    asyncio.run(serve())


def test_a_task_that_is_cancelled_changes_nothing(make_manager: MakeManager) -> None:
    manager = full(make_manager)
    manager.pin(key_of(0))

    async def serve() -> None:
        waiting = manager.when_room(manager.create_cache_entry, key_of("new"), 64, timeout=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.05)

    asyncio.run(serve())
    assert manager.keys() == [key_of(0)]


def test_a_task_that_is_cancelled_as_it_is_woken_is_cancelled() -> None:
    async def serve(steps: int) -> bool:
        bell = TaskBell()
        waiting = asyncio.create_task(bell.wait(60))
        for _ in range(3):
            await asyncio.sleep(0)
        bell.release()
        for _ in range(steps):
            await asyncio.sleep(0)
        is_cancelled = waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() == is_cancelled
        return is_cancelled

    assert {asyncio.run(serve(steps)) for steps in range(8)} == {True, False}


def test_a_task_does_not_wait_in_vain(make_manager: MakeManager) -> None:
    manager = full(make_manager)
    manager.pin(key_of(0))

    async def serve() -> None:
        make = manager.create_cache_entry
        for timeout in (None, 0, 0.02):
            with pytest.raises(PoolExhaustedError):
                await manager.when_room(make, key_of("new"), 64, timeout=timeout)
        with pytest.raises(PoolExhaustedError):  # more than the pool has
            await manager.when_room(make, key_of("new"), 6400, timeout=60)
        with pytest.raises(InvalidTtlError):
            await manager.when_room(make, key_of("new"), 64, timeout=-1)

    asyncio.run(serve())


def test_the_end_of_a_manager_ends_the_wait() -> None:
    manager = KVCacheManager("32KiB", "numpy", LAYOUT, receipts=False)
    manager.create_cache_entry(key_of(0), 64)
    manager.pin(key_of(0))

    async def serve() -> None:
        make = manager.create_cache_entry
        waiting = asyncio.create_task(manager.when_room(make, key_of("new"), 64, timeout=60))
        await asyncio.sleep(0.01)
        manager.close()
        with pytest.raises(PoolClosedError):
            await waiting

    asyncio.run(serve())


def test_a_text_is_refused_as_a_key_with_an_example_of_one() -> None:
    text: Any = "a/1"
    example = r"such as CacheKey\('chat', 42\), not 'a/1'"
    with (
        KVCacheManager("1MiB", "numpy") as manager,
        pytest.raises(InvalidArgumentError, match=example),
    ):
        manager.get_cache_entry(text)
