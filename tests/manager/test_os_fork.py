"""In a child that `os.fork` made, the manager of the parent refuses calls and changes nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import PoolExhaustedError
from kvpool.eviction.lru import LruPolicy
from kvpool.ledger import LedgerSink, verify
from kvpool.manager import KVCacheManager
from kvpool.pool import MemoryPool
from tests.support.children import Holder, in_child, needs_fork, refused
from tests.support.manager_calls import CALLS, CONTEXT
from tests.support.sessions import LAYOUT, Clock, bits, key_of, random_tokens

pytestmark = needs_fork

NO_ENTRY: Any = None
NO_TOKENS: Any = None

MORE_CALLS: dict[str, Callable[[KVCacheManager], object]] = {
    **CALLS,
    "fork_cache_entry": lambda manager: manager.fork_cache_entry(key_of(1), key_of(3)),
    "make_room": lambda manager: manager.make_room(64),
    "open_session": lambda manager: manager.open_session([1, 2]),
    "begin_session": lambda manager: manager.begin_session([1, 2]),
    "is_open": lambda manager: manager.is_open(key_of(1)),
    "find_session_tokens": lambda manager: manager.find_session_tokens(key_of(1)),
    "get_session_tokens": lambda manager: manager.get_session_tokens(key_of(1)),
    "close_session": lambda manager: manager.close_session(NO_ENTRY, [1]),
    "note_compute": lambda manager: manager.note_compute(1, 1.0),
    "stats": KVCacheManager.stats,
    "clear": KVCacheManager.clear,
    "items": KVCacheManager.items,
    "keys": KVCacheManager.keys,
    "resize": lambda manager: manager.resize(1 << 19),
    "when_room": lambda manager: asyncio.run(manager.when_room(manager.make_room, 64)),
}
SILENT = {"close", "remove_later"}

ENTRY_CALLS: dict[str, Callable[[KVCacheEntry], object]] = {
    "append": lambda entry: entry.append(0, *random_tokens(LAYOUT, 1).layer(0)),
    "create": lambda entry: KVCacheEntry.create(entry.pool, LAYOUT, CONTEXT, "chat/9"),
    "data": KVCacheEntry.data,
    "extend": lambda entry: entry.extend(*random_tokens(LAYOUT, 1)),
    "extend_staged": lambda entry: entry.extend_staged(NO_TOKENS),
    "fork": lambda entry: entry.fork("4"),
    "key": lambda entry: entry.key(0),
    "keys": KVCacheEntry.keys,
    "lease": KVCacheEntry.lease,
    "load": lambda entry: entry.load("missing.safetensors"),
    "save": lambda entry: entry.save("never.safetensors"),
    "stage": lambda entry: entry.stage(1),
    "trim": KVCacheEntry.trim,
    "truncate": lambda entry: entry.truncate(1),
    "unstage": KVCacheEntry.unstage,
    "value": lambda entry: entry.value(0),
    "values": KVCacheEntry.values,
    "writing": lambda entry: entry.writing(0, 1).__enter__(),
}
# Called with what only a manager has.
OF_KEEPERS = {"drop", "end", "fork_for", "passed_to", "peek", "relocate"}
WITHOUT_POOL = {"held"}


class WaitingPolicy(LruPolicy):
    """Waits in the middle of a call of the manager: under its lock, or that of the pool too."""

    def __init__(self) -> None:
        super().__init__()
        self.before_touch: Callable[[], object] = LruPolicy
        self.before_victims: Callable[[], object] = LruPolicy

    def touch(self, key: Hashable, /) -> None:
        self.before_touch()
        super().touch(key)

    def victims(self) -> Iterator[Hashable]:
        self.before_victims()
        yield from super().victims()


@pytest.fixture
def policy() -> WaitingPolicy:
    return WaitingPolicy()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def manager(
    backend: str, clock: Clock, policy: WaitingPolicy, ledger: Path, tmp_path: Path
) -> Iterator[KVCacheManager]:
    options: dict[str, Any] = {"path": tmp_path / "arena"} if backend == "mmap" else {}
    with KVCacheManager(
        1 << 20,
        backend,
        LAYOUT,
        ttl=60,
        policy=policy,
        clock=clock,
        receipts=LedgerSink(ledger),
        **options,
    ) as manager:
        manager.create_cache_entry(key_of(1), CONTEXT).extend(*random_tokens(LAYOUT, 3))
        manager.allocate_entry(key_of("gone"), 64)
        manager.remove_cache_entry(key_of("gone"))
        yield manager
        manager.check_integrity()
        assert manager.remove_cache_entry(key_of(1)) is not None
    report = verify(ledger)
    assert report.findings == []
    assert report.is_sealed


@pytest.fixture
def entry(manager: KVCacheManager) -> KVCacheEntry:
    return the_entry(manager)


def the_entry(manager: KVCacheManager) -> KVCacheEntry:
    entry = manager.get_cache_entry(key_of(1))
    assert isinstance(entry, KVCacheEntry)
    return entry


@pytest.fixture
def unchanged(manager: KVCacheManager, ledger: Path, tmp_path: Path) -> Iterator[None]:
    """Check that the parent is as it was: figures, tokens, the bytes of its files."""
    entry = the_entry(manager)

    def state() -> dict[str, object]:
        return {
            "stats": replace(manager.get_stats(), hits=0),
            "keys": manager.session_keys(),
            "usage": manager.pool.usage(),
            "committed": manager.pool.committed_bytes(),
            "tokens": (bits(entry.keys()), bits(entry.values())),
            "ledger": ledger.read_bytes(),
            "arena": start_of(tmp_path / "arena"),
        }

    before = state()
    yield
    manager.check_integrity()
    assert state() == before


def start_of(file: Path) -> bytes:
    """Return the first bytes of a file, which is sparse and larger than the memory."""
    if not file.exists():
        return b""
    with file.open("rb") as opened:
        return opened.read(1 << 20)


def everything_refused(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    for name, call in MORE_CALLS.items():
        refused(name, partial(call, manager))
    for name, ask in ENTRY_CALLS.items():
        refused(name, partial(ask, entry))
    refused("pool.stats", manager.pool.stats)


def public(kind: type) -> set[str]:
    return {
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and not isinstance(member, property)
    }


def test_the_tables_have_every_call() -> None:
    named = (MORE_CALLS.keys() - {"in", "len"}) | SILENT
    assert public(KVCacheManager) == named
    assert (
        public(PoolEntry) | public(KVCacheEntry) == ENTRY_CALLS.keys() | OF_KEEPERS | WITHOUT_POOL
    )


@pytest.mark.usefixtures("unchanged")
def test_every_call_is_refused(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    in_child(lambda: everything_refused(manager, entry))


@pytest.mark.usefixtures("unchanged")
def test_what_needs_no_lock_tells_how_it_was(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    def act() -> None:
        assert (entry.token_count, entry.held(1), entry.max_context_length) == (3, 3, CONTEXT)
        assert entry.layout == LAYOUT
        assert "chat/1" in repr(entry)
        assert str(1 << 20) in repr(manager.pool)
        repr(manager)
        assert manager

    in_child(act)


@pytest.mark.usefixtures("unchanged")
def test_leaving_and_closing_do_nothing(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    def act() -> None:
        manager.remove_later(key_of(1))
        with manager:
            pass
        manager.close()
        manager.pool.close()
        everything_refused(manager, entry)

    in_child(act)


@pytest.mark.usefixtures("unchanged")
def test_what_expires_stays(manager: KVCacheManager, entry: KVCacheEntry, clock: Clock) -> None:
    def act() -> None:
        clock.now += 1000
        everything_refused(manager, entry)
        refused("evict_expired", manager.evict_expired)

    in_child(act)


@pytest.mark.usefixtures("unchanged")
def test_views_show_what_they_showed_and_their_end_is_silent(entry: KVCacheEntry) -> None:
    views = [entry.key(0, writeable=True)]
    before = bits(views[0])

    def act() -> None:
        assert bits(views[0]) == before
        views[0][:] = 1
        views.clear()
        gc.collect()

    in_child(act)
    assert bits(views[0]) == before
    views.clear()


def test_what_the_collector_ends_is_the_childs_alone(backend: str) -> None:
    parts: list[Any] = [KVCacheManager(1 << 20, backend, LAYOUT, receipts=False)]
    parts.append(parts[0].create_cache_entry(key_of(1), CONTEXT))
    parts[1].extend(*random_tokens(LAYOUT, 3))
    parts += [parts[1].keys(), parts[1].fork("2")]
    before = bits(parts[2])

    def act() -> None:
        parts.clear()
        gc.collect()

    in_child(act)
    assert bits(parts[1].keys()) == before
    parts[0].check_integrity()
    parts[2] = None
    parts[0].close()


# -- locks that other threads hold ---------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
def test_the_lock_of_the_manager(
    manager: KVCacheManager, entry: KVCacheEntry, policy: WaitingPolicy
) -> None:
    def pin(wait: Callable[[], None]) -> None:
        policy.before_touch = wait
        manager.pin(key_of(1))
        policy.before_touch = LruPolicy
        manager.unpin(key_of(1))

    entry.data()  # a use, of which the next call tells the policy
    with Holder(pin).in_the_middle():
        in_child(lambda: everything_refused(manager, entry))


@pytest.mark.usefixtures("unchanged")
def test_the_locks_of_the_manager_and_the_pool(
    manager: KVCacheManager, entry: KVCacheEntry, policy: WaitingPolicy
) -> None:
    lease = entry.data()

    def make_room(wait: Callable[[], None]) -> None:
        policy.before_victims = wait
        with pytest.raises(PoolExhaustedError):
            manager.make_room(manager.pool.capacity)
        policy.before_victims = LruPolicy

    def act() -> None:
        everything_refused(manager, entry)
        manager.close()
        lease.tolist()

    with Holder(make_room).in_the_middle():
        in_child(act)


def test_the_lock_of_an_entry(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    alone = KVCacheEntry.create(MemoryPool(1 << 16, "numpy"), LAYOUT, CONTEXT, "alone")
    gone = manager.create_cache_entry(key_of(5), CONTEXT)

    def write(into: KVCacheEntry) -> Callable[[Callable[[], None]], None]:
        def act(wait: Callable[[], None]) -> None:
            with into.writing(0, 1):
                wait()

        return act

    def act() -> None:
        for one in (entry, alone, gone):
            everything_refused(manager, one)

    with Holder(write(alone)).in_the_middle(), Holder(write(gone)).in_the_middle():
        manager.remove_cache_entry(key_of(5))
        in_child(act)
    alone.pool.close()
