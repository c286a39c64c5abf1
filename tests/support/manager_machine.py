"""The manager beside the naive model: rules and invariants for hypothesis to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.model_manager import ModelBlock, ModelManager, forever
from tests.support.sessions import Clock, key_of, random_tokens, same_bits

__all__ = ["ManagerMachine"]

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=24, dtype="float16")
CONTEXTS = (1, 3, 8)
CAPACITY = 3 * LAYOUT.geometry(8).nbytes

keys = st.sampled_from(
    [key_of(1), key_of(2), key_of(3), CacheKey("other", 1), CacheKey("other", 2)]
)
contexts = st.sampled_from(CONTEXTS)
ttls = st.sampled_from([None, None, 2, 5])
layers = st.integers(0, LAYOUT.layers - 1)
token_counts = st.integers(1, 4)


def refuse(error: type[Exception], call: Callable[..., object], *given: Any, **named: Any) -> None:
    with pytest.raises(error):
        call(*given, **named)


class ManagerMachine(RuleBasedStateMachine):
    """Every call is made twice; results, order, figures and every byte have to agree."""

    backend: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.policy = LruPolicy()
        self.manager = KVCacheManager(
            CAPACITY, self.backend, LAYOUT, policy=self.policy, clock=self.clock, elastic=False
        )
        self.model = ModelManager(CAPACITY, LAYOUT, self.clock.now)
        self.entries: dict[CacheKey, KVCacheEntry] = {}
        self.stale: list[KVCacheEntry] = []
        self.views: list[tuple[NDArray[Any], NDArray[Any], ModelBlock]] = []
        self.removed_later: list[CacheKey] = []
        self.seed = 0

    def teardown(self) -> None:
        self.manager.close()

    # -- helpers -------------------------------------------------------------------------

    def tokens(self, count: int) -> Any:
        self.seed += 1
        return random_tokens(LAYOUT, count, self.seed)

    def call(self) -> None:
        """Before each call of the manager: those go that had to go at the next one."""
        self.settle()
        for key in self.model.expire():
            self.stale.append(self.entries.pop(key))

    def settle(self) -> None:
        for key in self.removed_later:
            if key in self.model.sessions:
                self.model.forget(key, "manual")
                self.stale.append(self.entries.pop(key))
        self.removed_later.clear()

    def evict(self, gone: list[CacheKey]) -> None:
        for key in gone:
            self.model.forget(key, "lru")
            self.stale.append(self.entries.pop(key))

    def place(self, key: CacheKey) -> None:
        """Tell the model where the block of an entry lies."""
        self.model.sessions[key].block.offset = self.entries[key].block.offset

    def some_key(self, data: st.DataObject) -> CacheKey:
        return data.draw(st.sampled_from(sorted(self.entries, key=str)), label="key")

    # -- the manager ---------------------------------------------------------------------

    @rule(key=keys, context=contexts, ttl=ttls)
    def create(self, key: CacheKey, context: int, ttl: float | None) -> None:
        self.call()
        gone = self.model.victims(LAYOUT.geometry(context).nbytes)
        if key in self.model.sessions or gone is None:
            error = EntryExistsError if key in self.model.sessions else PoolExhaustedError
            refuse(error, self.manager.create_cache_entry, key, context, ttl=ttl)
            return
        self.entries[key] = self.manager.create_cache_entry(key, context, ttl=ttl)
        self.evict(gone)
        self.model.create(key, context, forever(ttl))
        self.place(key)

    @rule(key=keys, context=contexts, ttl=ttls)
    def get_or_create(self, key: CacheKey, context: int, ttl: float | None) -> None:
        self.call()
        session = self.model.sessions.get(key)
        larger = session is None or context > session.context
        nbytes = LAYOUT.geometry(context).nbytes
        gone = self.model.victims(nbytes, growing=key) if larger else []
        if gone is None:
            refuse(PoolExhaustedError, self.manager.get_or_create_cache, key, context, ttl=ttl)
            return
        entry = self.manager.get_or_create_cache(key, context, ttl=ttl)
        self.evict(gone)
        self.model.counts["misses" if session is None else "hits"] += 1
        if session is None:
            self.entries[key] = entry
            self.model.create(key, context, forever(ttl))
        elif larger:
            self.model.grow(key, context)
        assert entry is self.entries[key]
        self.model.use(key)
        self.place(key)

    @rule(key=keys)
    def get(self, key: CacheKey) -> None:
        self.call()
        assert self.manager.get_cache_entry(key) is self.entries.get(key)
        if key in self.model.sessions:
            self.model.counts["hits"] += 1
            self.model.use(key)
        else:
            self.model.counts["misses"] += 1

    @rule(key=keys)
    def remove(self, key: CacheKey) -> None:
        self.call()
        assert self.manager.remove_cache_entry(key) is self.entries.get(key)
        if key in self.model.sessions:
            self.model.forget(key, "manual")
            self.stale.append(self.entries.pop(key))

    @rule(key=keys)
    def remove_later(self, key: CacheKey) -> None:
        self.manager.remove_later(key)
        self.removed_later.append(key)

    @rule(share=st.integers(1, 4))
    def make_room(self, share: int) -> None:
        self.call()
        nbytes = CAPACITY * share // 3
        gone = self.model.victims(nbytes)
        if gone is None:
            refuse(PoolExhaustedError, self.manager.evict_lru_entries, nbytes)
        else:
            assert self.manager.evict_lru_entries(nbytes) == gone
            self.evict(gone)

    @rule(key=keys)
    def pin(self, key: CacheKey) -> None:
        self.call()
        if key in self.model.sessions:
            self.manager.pin(key)
            self.model.sessions[key].pins += 1

    @rule(key=keys)
    def unpin(self, key: CacheKey) -> None:
        self.call()
        if key in self.model.sessions and self.model.sessions[key].pins:
            self.manager.unpin(key)
            self.model.sessions[key].pins -= 1
        else:
            refuse(EntryNotFoundError, self.manager.unpin, key)

    @rule(seconds=st.sampled_from([0.5, 1, 3]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.model.now = self.clock.now

    @rule()
    def evict_expired(self) -> None:
        self.settle()
        expired = self.model.expire()
        assert self.manager.evict_expired() == expired
        for key in expired:
            self.stale.append(self.entries.pop(key))

    # -- the entries ---------------------------------------------------------------------

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), count=token_counts)
    def extend(self, data: st.DataObject, count: int) -> None:
        key = self.some_key(data)
        entry, session, tokens = self.entries[key], self.model.sessions[key], self.tokens(count)
        if session.in_step:
            refuse(LayerMismatchError, entry.extend, *tokens)
        elif session.complete + count > session.context:
            refuse(ContextOverflowError, entry.extend, *tokens)
        else:
            assert entry.extend(*tokens) == session.complete + count
            self.model.extend(self.model.use(key), tokens)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), layer=layers, count=token_counts)
    def append(self, data: st.DataObject, layer: int, count: int) -> None:
        key = self.some_key(data)
        entry, session = self.entries[key], self.model.sessions[key]
        tokens = self.tokens(count).layer(layer)
        if not session.may_append(layer, count):
            refuse(LayerMismatchError, entry.append, layer, *tokens)
        elif session.complete + count > session.context:
            refuse(ContextOverflowError, entry.append, layer, *tokens)
        else:
            assert entry.append(layer, *tokens) == session.complete + count
            self.model.use(key).append(layer, *tokens)

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), kept=st.integers(0, 9))
    def truncate(self, data: st.DataObject, kept: int) -> None:
        key = self.some_key(data)
        entry, session = self.entries[key], self.model.sessions[key]
        if kept > session.complete:
            refuse(InvalidTokensError, entry.truncate, kept)
        else:
            entry.truncate(kept)
            self.model.use(key).counts = [kept] * LAYOUT.layers

    @precondition(lambda self: self.entries and len(self.views) < 4)
    @rule(data=st.data(), layer=layers)
    def take_view(self, data: st.DataObject, layer: int) -> None:
        key = self.some_key(data)
        entry, session = self.entries[key], self.model.use(key)
        block, held = session.block, session.counts[layer]
        real, expected = data.draw(
            st.sampled_from(
                [
                    (lambda: entry.key(layer), block.keys[layer, :, :held]),
                    (lambda: entry.value(layer), block.values[layer, :, :held]),
                    (entry.keys, block.keys[:, :, : session.complete]),
                    (entry.values, block.values[:, :, : session.complete]),
                ]
            )
        )
        self.views.append((real(), expected, block))
        block.views += 1

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop_view(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.views) - 1))
        block = self.views.pop(index)[2]
        self.model.view_ended(block)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def use_a_stale_entry(self, data: st.DataObject) -> None:
        entry = self.stale[data.draw(st.integers(0, len(self.stale) - 1))]
        refuse(EntryRemovedError, entry.key, 0)
        refuse(EntryRemovedError, entry.extend, *self.tokens(9))

    # -- what always holds ---------------------------------------------------------------

    @invariant()
    def views_show_what_they_showed(self) -> None:
        for real, expected, _ in self.views:
            assert same_bits(real, expected)

    @invariant()
    def sessions_figures_and_order_agree(self) -> None:
        self.call()
        stats = self.manager.get_stats()
        assert list(self.policy.victims()) == list(self.model.sessions)
        assert stats.used_memory == self.model.used()
        assert stats.active_entries == len(self.model.sessions)
        assert stats.parting_entries == len(self.model.parting)
        assert stats.pinned_entries == sum(1 for s in self.model.sessions.values() if s.pins)
        assert self.model.counts == {name: getattr(stats, name) for name in self.model.counts}
        counted = {reason.value: count for reason, count in stats.evictions_by_reason.items()}
        assert counted == {"policy": 0, "close": 0} | self.model.evictions
        self.manager.check_integrity()

    @invariant()
    def every_byte_agrees(self) -> None:
        """Bytes are read past the entries, because reading by their methods is a use."""
        for key, session in self.model.sessions.items():
            entry = self.entries[key]
            assert entry.token_count == session.complete
            assert entry.last_accessed == session.last_accessed
            root, geometry = self.manager.pool.lease(entry.block), LAYOUT.geometry(session.context)
            for layer, held in enumerate(session.counts):
                pair = geometry.layer_view(root, layer, 0, held)
                assert same_bits(pair[0], session.block.keys[layer, :, :held])
                assert same_bits(pair[1], session.block.values[layer, :, :held])
