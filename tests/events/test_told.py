"""A set that is built from the events alone is what the pool holds, whatever is called."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import CacheInUseError, EntryRemovedError, PoolClosedError, PoolExhaustedError
from kvpool.events import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored, Event, EventQueue
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, chunk_names, token_bytes
from tests.support.injection import Injection, Kind
from tests.support.sessions import Clock, key_of

LAYOUT = KVLayout(layers=1, kv_heads=2, head_dim=64, dtype="float16")
TENANTS = [("", ""), ("big", ""), ("", "secret")]  # by the first token of a sequence
IDENTITIES = [Identity(model, salt, LAYOUT) for model, salt in TENANTS]


class Router:
    """What a router knows from the events alone."""

    def __init__(self, events: EventQueue) -> None:
        self.queue = events
        self.known: dict[BlockHash, tuple[BlockHash | None, tuple[int, ...]]] = {}
        self.clears = 0

    def read(self) -> list[Event]:
        events = self.queue.take()
        for event in events:
            if isinstance(event, AllBlocksCleared):
                self.known.clear()
                self.clears += 1
            elif isinstance(event, BlockRemoved):
                for name in event.block_hashes:
                    del self.known[name]  # raises if it was not stored, or was removed before
            else:
                self._store(event)
        return events

    def _store(self, event: BlockStored) -> None:
        size, parent = event.block_size, event.parent_block_hash
        assert len(event.token_ids) == size * len(event.block_hashes)
        assert event.medium == "CPU"
        for number, name in enumerate(event.block_hashes):
            assert name not in self.known  # it is stored once
            assert parent is None or parent in self.known
            chunk = tuple(event.token_ids[number * size : (number + 1) * size])
            self.known[name] = parent, chunk
            parent = name

    def prompts(self) -> set[tuple[int, ...]]:
        """The tokens from the beginning up to the end of each chunk."""
        return {self._prompt(name) for name in self.known}

    def _prompt(self, name: BlockHash | None) -> tuple[int, ...]:
        if name is None:
            return ()
        parent, chunk = self.known[name]
        return self._prompt(parent) + chunk


def whole_chunks(manager: KVCacheManager, size: int) -> dict[bytes, tuple[int, ...]]:
    """Return the names of all whole chunks that sessions hold, and their tokens from the start."""
    found = {}
    for key in manager.session_keys():
        tokens = manager.get_session_tokens(key)
        if tokens is not None and len(tokens):
            names = chunk_names(IDENTITIES[tokens[0]], token_bytes(tokens), size)
            for number, name in enumerate(names, 1):
                found[name] = tuple(tokens[: number * size].tolist())
    return found


def check(router: Router, manager: KVCacheManager, size: int) -> None:
    manager.check_integrity()
    router.read()
    held = whole_chunks(manager, size)
    assert router.known.keys() == held.keys()
    assert router.prompts() == set(held.values())


class Talk:
    """Random calls of a manager, whose events a router reads."""

    def __init__(self, backend: str, seed: int, policy: str | LruPolicy = "lru") -> None:
        self.draws = random.Random(seed)
        self.clock = Clock()
        self.size = self.draws.choice([3, 16, 50])
        self.router = Router(EventQueue(hashes="bytes"))
        self.manager = KVCacheManager(
            1 << 19,
            backend,
            LAYOUT,
            clock=self.clock,
            policy=policy,
            receipts=False,
            chunk_tokens=self.size,
            prefix_tokens=self.draws.choice([None, 700]),
            events=self.router.queue,
        )
        self.spoken: list[list[int]] = [[0], [1], [2]]
        self.opened: list[tuple[KVCacheEntry, list[int]]] = []

    def tokens(self) -> list[int]:
        tokens = list(self.draws.choice(self.spoken))
        if self.draws.random() < 0.3:
            del tokens[self.draws.randrange(len(tokens)) + 1 :]
        tokens += [self.draws.randrange(3) for _ in range(self.draws.randrange(1, 40))]
        self.spoken = [*self.spoken[:3], *self.spoken[3:][-20:], tokens[:250]]
        return tokens[:250]

    def open(self) -> None:
        tokens = self.tokens()
        model, salt = TENANTS[tokens[0]]
        entry, left = self.manager.open_session(
            tokens,
            self.draws.choice([None, key_of(self.draws.randrange(6))]),
            max_context_length=256,
            ttl=self.draws.choice([None, None, 5]),
            model_id=model,
            salt=salt,
        )
        self.opened.append((entry, tokens))
        new = np.ones((1, 2, left, 64), "float16")
        entry.extend(new, new)

    def step(self) -> None:
        draws, manager = self.draws, self.manager
        self.clock.now += draws.choice([0, 1, 1, 9])
        with contextlib.suppress(CacheInUseError, PoolExhaustedError, EntryRemovedError):
            self.open()
        if draws.random() < 0.1:
            with contextlib.suppress(PoolExhaustedError):
                manager.make_room(draws.randrange(1, 1 << 18))
        if draws.random() < 0.1:
            manager.remove_cache_entry(draws.choice(manager.session_keys() or [key_of(0)]))
        if draws.random() < 0.1:
            with contextlib.suppress(PoolExhaustedError):
                manager.get_or_create_cache(CacheKey("plain", draws.randrange(3)), 64)
        while self.opened and (len(self.opened) > 3 or draws.random() < 0.7):
            entry, tokens = self.opened.pop(draws.randrange(len(self.opened)))
            with contextlib.suppress(EntryRemovedError):
                manager.close_session(entry, tokens)


@pytest.mark.parametrize("seed", range(4))
def test_the_events_are_what_the_pool_holds(backend: str, seed: int) -> None:
    talk = Talk(backend, seed)
    for _ in range(150):
        talk.step()
        if talk.draws.random() < 0.5:
            check(talk.router, talk.manager, talk.size)
    sources = talk.manager.get_stats().prefix.tokens_by_source
    assert sources["continued"]
    assert sources["forked"] or sources["copied"]
    assert talk.router.clears == 0
    talk.manager.close()
    events = talk.router.read()
    assert isinstance(events[-1], AllBlocksCleared)
    assert not talk.router.known


@pytest.mark.usefixtures("views_may_be_interrupted")
@pytest.mark.parametrize("kind", ["interrupt", "memory"])
@pytest.mark.parametrize("seed", range(3))
def test_after_an_interrupt_all_is_told_anew(backend: str, seed: int, kind: Kind) -> None:
    talk = Talk(backend, seed)
    stopped = 0
    for _ in range(80):
        injection = Injection(talk.draws.randrange(1, 400), kind)
        with contextlib.suppress(KeyboardInterrupt, MemoryError), injection:
            talk.step()
        stopped += injection.where is not None
        talk.opened = []  # those that stay open are in use for good
        for key in talk.manager.session_keys():
            if talk.manager.is_open(key):
                talk.manager.remove_cache_entry(key)
        check(talk.router, talk.manager, talk.size)
    assert stopped > 20
    assert talk.router.clears
    talk.manager.close()


@pytest.mark.usefixtures("views_may_be_interrupted")
def test_a_manager_whose_end_was_interrupted_goes_on() -> None:
    stopped = 0
    for place in range(1, 200, 7):
        talk = Talk("numpy", place)
        for _ in range(5):
            talk.step()
        injection = Injection(place, "interrupt")
        try:
            with injection:
                talk.manager.close()
        except KeyboardInterrupt:
            stopped += 1
            with contextlib.suppress(PoolClosedError):  # it was at the end
                talk.manager.make_room(1 << 10)
                talk.opened = []
                talk.step()
                check(talk.router, talk.manager, talk.size)
        talk.manager.close()
        talk.router.read()
        assert not talk.router.known
    assert stopped > 10


def test_an_interrupt_of_the_reader_loses_nothing_for_good() -> None:
    talk = Talk("numpy", 1)
    stopped = 0
    for place in range(1, 60):
        talk.step()
        injection = Injection(place, "interrupt")
        with contextlib.suppress(KeyboardInterrupt), injection:
            talk.router.queue.take()
        if injection.where is not None:
            stopped += 1
        else:
            talk.router.queue.resend()
        talk.router.read()  # after an interrupt this asks for all
        talk.manager.session_keys()  # and any call tells it
        check(talk.router, talk.manager, talk.size)
    assert stopped > 10
    talk.manager.close()


class Raising(LruPolicy):
    """Raises now and then."""

    def __init__(self, seed: int) -> None:
        self.draws = random.Random(seed)
        super().__init__()

    def _maybe(self) -> None:
        if self.draws.random() < 0.03:
            raise ZeroDivisionError

    def admit(self, item: object, nbytes: int, /) -> None:
        super().admit(item, nbytes)
        self._maybe()

    def touch(self, item: object, /) -> None:
        self._maybe()
        super().touch(item)

    def remove(self, item: object, /) -> None:
        self._maybe()
        super().remove(item)


@pytest.mark.parametrize("seed", range(3))
def test_a_policy_that_raises_tells_no_lies(backend: str, seed: int) -> None:
    policy = Raising(seed)
    talk = Talk(backend, seed, policy)
    raised = 0
    for _ in range(80):
        try:
            talk.step()
        except ZeroDivisionError:
            raised += 1
            policy.draws.seed(raised + 1000 * seed)
        with quiet(policy):
            check(talk.router, talk.manager, talk.size)
    assert raised > 5
    assert talk.router.clears
    with quiet(policy):
        talk.manager.close()


@contextlib.contextmanager
def quiet(policy: Raising) -> Iterator[None]:
    """Let a policy raise nothing."""
    draws, policy.draws = policy.draws, Never()
    try:
        yield
    finally:
        policy.draws = draws


class Never(random.Random):
    """Draws that are never small."""

    def random(self) -> float:
        return 1.0
