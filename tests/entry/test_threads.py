"""Entries used by many threads while others evict, grow and remove them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryRemovedError, LayerMismatchError
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, key_of, random_tokens, same_bits

pytestmark = pytest.mark.usefixtures("frequent_switches")

CONTEXT = 16
NBYTES = LAYOUT.geometry(CONTEXT).nbytes
ROUNDS = 300
APPENDS = 2000


def together(*jobs: Callable[[], None]) -> None:
    """Run jobs in threads of their own at once; raise what one of them raises."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_an_append_is_never_torn_by_an_eviction(backend: str) -> None:
    """Whoever appends either writes to its own entry, or hears that it is gone."""
    with KVCacheManager(3 * NBYTES, backend, LAYOUT, elastic=False) as manager:

        def append(number: int) -> None:
            tokens = random_tokens(LAYOUT, CONTEXT, number)
            for _ in range(ROUNDS):
                entry = manager.get_or_create_cache(key_of(number), CONTEXT)
                try:
                    at = entry.token_count % CONTEXT
                    entry.truncate(at)
                    entry.extend(tokens.keys[:, :, at : at + 1], tokens.values[:, :, at : at + 1])
                    keys, values = entry.keys(), entry.values()
                except EntryRemovedError:
                    continue
                assert same_bits(keys, tokens.keys[:, :, : at + 1])
                assert same_bits(values, tokens.values[:, :, : at + 1])

        def press() -> None:
            for number in range(ROUNDS):
                entry = manager.get_or_create_cache(CacheKey("press", number), CONTEXT)
                try:
                    entry.data()[:] = 0xA5
                except EntryRemovedError:
                    continue

        together(partial(append, 1), partial(append, 2), press)
        manager.check_integrity()
        assert manager.get_stats().parting_entries == 0


def test_appends_to_one_entry_follow_one_another(backend: str) -> None:
    with KVCacheManager(1 << 22, backend, LAYOUT, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(1), 4 * APPENDS)

        def append(stamp: int) -> None:
            token = np.full((2, 3, 5), stamp, "float32")
            for _ in range(APPENDS):
                entry.extend(token, -token)

        together(*[partial(append, stamp) for stamp in (1, 2, 3, 4)])
        keys = entry.keys()
        assert entry.token_count == 4 * APPENDS
        assert np.array_equal(keys, np.broadcast_to(keys[:1, :1, :, :1], keys.shape))
        assert np.array_equal(entry.values(), -keys)
        assert np.bincount(keys[0, 0, :, 0].astype(int)).tolist() == [0, *[APPENDS] * 4]


def test_a_layer_each(backend: str) -> None:
    """A thread for each layer: they wait for each other by the errors alone."""
    with KVCacheManager(1 << 20, backend, LAYOUT, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(1), ROUNDS)
        tokens = random_tokens(LAYOUT, ROUNDS)

        def append(layer: int) -> None:
            keys, values = tokens.layer(layer)
            at = 0
            for _ in range(1_000_000):
                try:
                    at = entry.append(layer, keys[:, at], values[:, at])
                except LayerMismatchError:
                    time.sleep(0)  # the other layer's turn
                if at == ROUNDS:
                    break

        together(partial(append, 0), partial(append, 1))
        assert same_bits(entry.keys(), tokens.keys)
        assert same_bits(entry.values(), tokens.values)


def test_an_entry_can_be_used_while_it_grows(backend: str) -> None:
    with KVCacheManager(1 << 22, backend, LAYOUT, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(1), 1)
        tokens = random_tokens(LAYOUT, ROUNDS)
        done = threading.Event()

        def write() -> None:
            try:
                for at in range(ROUNDS):
                    manager.get_or_create_cache(key_of(1), at + 1)
                    entry.extend(tokens.keys[:, :, at], tokens.values[:, :, at])
            finally:
                done.set()

        def read(look: Callable[[KVCacheEntry], None]) -> None:
            while not done.is_set():
                look(entry)

        def look_at_keys(entry: KVCacheEntry) -> None:
            keys = entry.keys()
            assert same_bits(keys, tokens.keys[:, :, : keys.shape[2]])

        def look_at_bytes(entry: KVCacheEntry) -> None:
            assert entry.data().size >= LAYOUT.geometry(1).nbytes

        together(write, partial(read, look_at_keys), partial(read, look_at_bytes))
        assert same_bits(entry.values(), tokens.values)
        manager.check_integrity()


# -- between the bytes and the note of the use -------------------------------------------


class Meddling:
    """A clock that, when it is armed, does something while a call of an entry is under way."""

    def __init__(self) -> None:
        self.act: Callable[[], object] | None = None

    def __call__(self) -> float:
        act, self.act = self.act, None
        if act is not None:
            act()
        return 0.0

    def has_acted(self) -> bool:
        """Tell whether it did what it was armed for; it is not armed any more."""
        pending, self.act = self.act, None
        return pending is None


@pytest.mark.parametrize("method", ["append", "extend", "truncate", "key", "keys", "data"])
def test_an_entry_cannot_go_before_its_use_is_noted(backend: str, method: str) -> None:
    clock = Meddling()
    arguments = {
        "append": (0, *random_tokens(LAYOUT, 1).layer(0)),
        "extend": tuple(random_tokens(LAYOUT, 1)),
        "truncate": (0,),
        "key": (0,),
    }.get(method, ())
    with KVCacheManager(3 * NBYTES, backend, LAYOUT, clock=clock, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(1), CONTEXT)
        manager.create_cache_entry(key_of(2), CONTEXT)
        manager.create_cache_entry(key_of(3), CONTEXT)
        clock.act = lambda: manager.evict_lru_entries(NBYTES)
        getattr(entry, method)(*arguments)
        assert clock.has_acted()
        assert manager.session_keys() == [key_of(1), key_of(3)]
        manager.check_integrity()
