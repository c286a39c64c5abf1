"""Entries of an elastic or rigid pool beside plain arrays: rules for hypothesis to try.

The model keeps for each session an array of its tokens, and for each view a copy of what it
showed. It knows nothing of pages, bases or mappings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.layout import Packing
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool
from tests.support.model_elastic import Model, View, layout_of, new_session
from tests.support.model_manager import ModelSession
from tests.support.page_counts import kernel_bytes
from tests.support.sessions import Tokens, key_of, random_tokens, same_bits

__all__ = ["ElasticMachine", "machine", "run"]

STEPS = 50  # of one example
CONTEXTS = (16, 40)
KEYS = [key_of(name) for name in "abcde"]

keys = st.sampled_from(KEYS)
some = st.integers(0, 999)
token_counts = st.sampled_from([1, 1, 2, 5, 9])


def refuse(error: type[Exception], call: Callable[..., object], *given: Any, **named: Any) -> None:
    with pytest.raises(error):
        call(*given, **named)


class ElasticMachine(RuleBasedStateMachine):
    """Every call is made twice; every view and every token has to agree after each."""

    backend: ClassVar[str]
    elastic: ClassVar[bool]
    packing: ClassVar[Packing] = "head"
    secure: ClassVar[bool] = False
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.layout = layout_of(self.packing)
        largest = self.layout.geometry(CONTEXTS[-1], 4096).nbytes
        space: dict[str, Any] = {"address_space": 5 * largest} if self.elastic else {}
        self.manager = KVCacheManager(
            *(2 * largest // 3 if self.elastic else 4 * largest, self.backend, self.layout),
            elastic=self.elastic,
            secure=self.secure,
            receipts=False,
            **space,
        )
        self.model = Model()
        self.entries: dict[CacheKey, KVCacheEntry] = {}
        self.stale: list[KVCacheEntry] = []
        self.views: list[View] = []
        self.seed = 0

    def teardown(self) -> None:
        self.views.clear()
        for key in list(self.entries):
            self.manager.remove_cache_entry(key)
        pool = self.manager.pool
        pool.check_integrity()
        stats = pool.stats()
        assert (stats.used, stats.reserved, stats.forks, stats.parting_blocks) == (0, 0, 0, 0)
        if self.elastic:
            assert pool.committed_bytes() == 0
        self.manager.close()

    # -- helpers -------------------------------------------------------------------------

    def tokens(self, count: int) -> Tokens:
        self.seed += 1
        return random_tokens(self.layout, count, self.seed)

    def some_key(self, number: int) -> CacheKey:
        present = sorted(self.entries, key=str)
        return present[number % len(present)]

    def note_gone(self) -> None:
        """Forget who was evicted; who that is is not the model's business."""
        gone = self.entries.keys() - set(self.manager.session_keys())
        for key in gone:
            self.stale.append(self.entries.pop(key))
            del self.model.sessions[key]
        del self.stale[:-3]

    def attempt(self, call: Callable[[], object]) -> bool:
        """Make a call that may lack room; then nobody must have gone for nothing."""
        before = self.manager.session_keys()
        try:
            call()
        except PoolExhaustedError:
            assert self.manager.session_keys() == before
            return False
        finally:
            self.note_gone()
        return True

    # -- sessions ------------------------------------------------------------------------

    @initialize(count=token_counts)
    def begin(self, count: int) -> None:
        self.create(KEYS[0], CONTEXTS[-1])
        self.extend(0, count)
        self.extend(0, 9)

    @rule(key=keys, context=st.sampled_from(CONTEXTS))
    def create(self, key: CacheKey, context: int) -> None:
        if key in self.entries:
            refuse(EntryExistsError, self.manager.create_cache_entry, key, context)
        elif self.attempt(lambda: self.manager.create_cache_entry(key, context)):
            self.take_in(key)
            self.model.sessions[key] = new_session(self.layout, context)

    def take_in(self, key: CacheKey) -> None:
        entry = self.manager.get_cache_entry(key)
        assert isinstance(entry, KVCacheEntry)
        self.entries[key] = entry

    @precondition(lambda self: self.entries)
    @rule(number=some, context=st.sampled_from(CONTEXTS))
    def grow(self, number: int, context: int) -> None:
        key = self.some_key(number)
        session = self.model.sessions[key]
        if not self.attempt(lambda: self.manager.get_or_create_cache(key, context)):
            return
        assert key in self.entries
        if context > session.context:
            self.model.grow(key, context, self.layout)

    @precondition(lambda self: self.entries)
    @rule(number=some, new_key=keys)
    def fork(self, number: int, new_key: CacheKey) -> None:
        key = self.some_key(number)
        entry = self.entries[key]
        if number % 4:  # else it is likely to be taken
            new_key = next((free for free in KEYS if free not in self.entries), new_key)
        if new_key in self.entries:
            refuse(EntryExistsError, entry.fork, str(new_key.id))
        elif self.attempt(lambda: self.manager.fork_cache_entry(key, new_key)):
            assert key in self.entries
            self.take_in(new_key)
            self.model.fork(key, new_key, self.layout)

    @precondition(lambda self: self.entries)
    @rule(number=some)
    def remove(self, number: int) -> None:
        self.manager.remove_cache_entry(self.some_key(number))
        self.note_gone()

    @rule(share=st.integers(1, 6))
    def evict(self, share: int) -> None:
        capacity = self.manager.pool.capacity
        self.attempt(lambda: self.manager.evict_lru_entries(capacity * share // 6))

    # -- tokens --------------------------------------------------------------------------

    @precondition(lambda self: self.entries)
    @rule(number=some, count=token_counts)
    def extend(self, number: int, count: int) -> None:
        key = self.some_key(number)
        entry, session, tokens = self.entries[key], self.model.sessions[key], self.tokens(count)
        if session.in_step:
            refuse(LayerMismatchError, entry.extend, *tokens)
        elif session.complete + count > session.context:
            refuse(ContextOverflowError, entry.extend, *tokens)
        elif self.attempt(lambda: entry.extend(*tokens)):
            self.note_written(session, session.complete)
            for layer in range(self.layout.layers):
                session.append(layer, *tokens.layer(layer))

    @precondition(lambda self: self.entries)
    @rule(
        number=some,
        layer=st.integers(0, 1),
        count=token_counts,
        is_next=st.integers(0, 3),
    )
    def append(self, number: int, layer: int, count: int, is_next: int) -> None:
        key = self.some_key(number)
        entry, session = self.entries[key], self.model.sessions[key]
        if session.in_step and is_next:  # else no step would ever end
            layer = session.counts.index(session.complete)
            count = max(session.counts) - session.complete
        tokens = self.tokens(count).layer(layer)
        if not session.may_append(layer, count):
            refuse(LayerMismatchError, entry.append, layer, *tokens)
        elif session.complete + count > session.context:
            refuse(ContextOverflowError, entry.append, layer, *tokens)
        elif self.attempt(lambda: entry.append(layer, *tokens)):
            self.note_written(session, session.complete)
            session.append(layer, *tokens)

    @precondition(lambda self: self.entries)
    @rule(number=some, share=st.integers(0, 9))
    def truncate(self, number: int, share: int) -> None:
        key = self.some_key(number)
        entry, session = self.entries[key], self.model.sessions[key]
        kept = session.complete * share // 8
        if kept > session.complete:
            refuse(InvalidTokensError, entry.truncate, kept)
        else:
            entry.truncate(kept)
            session.counts = [kept] * self.layout.layers

    @precondition(lambda self: self.entries)
    @rule(number=some, share=st.integers(0, 8), count=token_counts)
    def rewrite(self, number: int, share: int, count: int) -> None:
        self.truncate(number, share)
        self.extend(number, count)

    @precondition(lambda self: self.entries)
    @rule(number=some)
    def trim(self, number: int) -> None:
        self.entries[self.some_key(number)].trim()

    # -- leases --------------------------------------------------------------------------

    @precondition(lambda self: self.entries and len(self.views) < 4)
    @rule(number=some, layer=st.integers(0, 1), which=st.integers(0, 3))
    def take_view(self, number: int, layer: int, which: int) -> None:
        key = self.some_key(number)
        entry, session = self.entries[key], self.model.sessions[key]
        block, held, complete = session.block, session.counts[layer], session.complete
        takes: list[tuple[Callable[[], NDArray[Any]], NDArray[Any]]] = [
            (lambda: entry.key(layer), block.keys[layer, :, :held]),
            (lambda: entry.value(layer), block.values[layer, :, :held]),
            (entry.keys, block.keys[:, :, :complete]),
            (entry.values, block.values[:, :, :complete]),
        ]
        take, expected = takes[which]
        self.views.append(View(take(), expected.copy(), block, expected.shape[-2]))

    def note_written(self, session: ModelSession, start: int) -> None:
        """Believe views of these tokens no more: they may show what they showed, or follow."""
        for view in self.views:
            if view.block is session.block:
                view.tokens = min(view.tokens, start)

    @precondition(lambda self: self.views)
    @rule(number=some)
    def drop_view(self, number: int) -> None:
        del self.views[number % len(self.views)]

    @precondition(lambda self: self.stale)
    @rule(number=some)
    def use_a_stale_entry(self, number: int) -> None:
        entry = self.stale[number % len(self.stale)]
        refuse(EntryRemovedError, entry.key, 0)
        refuse(EntryRemovedError, entry.trim)
        refuse(EntryRemovedError, entry.fork, "nobody")

    # -- what always holds ---------------------------------------------------------------

    @invariant()
    def views_show_what_they_showed(self) -> None:
        for view in self.views:
            assert same_bits(view.real[..., : view.tokens, :], view.expected[..., : view.tokens, :])

    @invariant()
    def every_token_agrees(self) -> None:
        """Bytes are read past the entries, because reading by their methods is a use."""
        for key, session in self.model.sessions.items():
            entry = self.entries[key]
            assert entry.token_count == session.complete
            root = self.manager.pool.lease(entry.block)
            granule = self.manager.pool.granule
            geometry = entry.layout.geometry(entry.max_context_length, granule)
            for layer, held in enumerate(session.counts):
                pair = geometry.layer_view(root, layer, 0, held)
                assert same_bits(pair[0], session.block.keys[layer, :, :held])
                assert same_bits(pair[1], session.block.values[layer, :, :held])

    @invariant()
    def books_are_right(self) -> None:
        type(self).steps += 1
        self.manager.check_integrity()
        assert set(self.manager.session_keys()) == set(self.entries)
        pool = self.manager.pool
        if isinstance(pool, ElasticPool):
            assert kernel_bytes(pool) <= pool.stats().used


def machine(backend: str, elastic: bool, packing: Packing = "head") -> type[ElasticMachine]:
    """Return the machine for a backend, with an elastic pool or with a rigid one."""

    class Chosen(ElasticMachine):
        pass

    Chosen.backend, Chosen.elastic, Chosen.packing = backend, elastic, packing
    Chosen.steps = 0
    return Chosen


def run(
    steps: int, first_seed: int, backend: str, elastic: bool = True, packing: Packing = "head"
) -> int:
    """Run at least so many steps, and return how many there were.

    Parameters
    ----------
    steps, first_seed : int
    backend, elastic, packing
        As for `machine`.
    """
    chosen = machine(backend, elastic, packing)
    number = first_seed
    while chosen.steps < steps:
        examples = max(1, min(1000, (steps - chosen.steps) // STEPS))
        run_state_machine_as_test(
            seed(number)(chosen),
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                database=None,
                deadline=None,
                derandomize=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        number += 1
    return chosen.steps
