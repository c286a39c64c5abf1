"""A manager with tiers that fail: rules for hypothesis, and the check that each token is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryRemovedError,
    InvalidTokensError,
    PoolExhaustedError,
    TierError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.tiers import Breaker, Item, Level, TierStore
from kvpool.tiers.memory import MemoryTier
from tests.support.computing import check, computed
from tests.support.sessions import Clock

__all__ = ["FaultyTier", "TierMachine"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=8, dtype="float32")
CHUNK = 4
LONGEST = 40
TTL = 50
FAULTS = ("raises", "refuses", "wrong", "lost")
KEYS = [CacheKey("chat", number) for number in range(3)]


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Return texts that begin alike, and differ from some token on."""

    def text(length: int, at: int, branch: int) -> tuple[int, ...]:
        return tuple(n if n < at or not branch else 100 * branch + n for n in range(length))

    return st.builds(text, st.integers(1, LONGEST), st.integers(0, LONGEST), st.integers(0, 2))


class FaultyTier(MemoryTier):
    """Does what its `fault` says."""

    fault = ""

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        self._may_raise()
        with super().read(keys) as values:
            if self.fault == "lost":
                yield [None for _ in values]
            elif self.fault == "wrong":
                yield [None if value is None else memoryview(damaged(value)) for value in values]
            else:
                yield values

    def write(self, items: Sequence[Item], /) -> int:
        self._may_raise()
        return 0 if self.fault == "refuses" else super().write(items)

    def contains(self, keys: Sequence[bytes], /) -> int:
        self._may_raise()
        return super().contains(keys)

    def remove(self, keys: Sequence[bytes], /) -> int:
        self._may_raise()
        return super().remove(keys)

    def _may_raise(self) -> None:
        if self.fault == "raises":
            raise TierError("out of order")


def damaged(value: memoryview) -> bytes:
    """Return a value with another last byte."""
    return bytes(value[:-1]) + bytes([value[-1] ^ 1])


class Opened(NamedTuple):
    """A session that is open, and its tokens."""

    key: CacheKey | None
    entry: KVCacheEntry
    tokens: tuple[int, ...]


class TierMachine(RuleBasedStateMachine):
    """Sessions, evictions and faults of two tiers in any order; what is served is always right."""

    is_elastic: ClassVar[bool]
    loaded: ClassVar[int] = 0
    stored: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.tiers = [FaultyTier(30_000), FaultyTier()]  # the first has room for some chunks
        levels = [Level(Breaker(tier, None, failures=2, clock=self.clock)) for tier in self.tiers]
        self.store = TierStore(levels, chunk_tokens=CHUNK)
        self.manager = self.new_manager()
        self.opened: list[Opened] = []
        self.views: list[NDArray[Any]] = []
        self.texts: set[tuple[int, ...]] = set()

    def new_manager(self) -> KVCacheManager:
        """Return a manager with room for three sessions, or for pages of as many."""
        nbytes = 3 * LAYOUT.geometry(LONGEST + 1).nbytes
        if self.is_elastic:
            nbytes = 3 * 8 * 4096  # a page for each layer, head, and for keys and values
        return KVCacheManager(
            nbytes,
            "mmap" if self.is_elastic else "numpy",
            LAYOUT,
            ttl=TTL,
            clock=self.clock,
            receipts=False,
            elastic=self.is_elastic,
            chunk_tokens=CHUNK,
            tiers=self.store,
        )

    def teardown(self) -> None:
        self.views.clear()
        for tier in self.tiers:
            tier.fault = ""
        self.clock.now += 1000
        self.manager.close()
        for text in sorted(self.texts):  # whatever happened, no wrong chunk was left that is served
            with self.new_manager() as manager:
                check(manager.open_session(text, max_context_length=LONGEST + 1).entry, text)
        figures = self.store.stats().levels
        TierMachine.loaded += sum(level.tokens for level in figures)
        TierMachine.stored += sum(level.stored for level in figures)
        self.store.close()

    @invariant()
    def books_agree(self) -> None:
        """Also lets what is queued be written under the fault of now, so that runs are alike."""
        self.store.drain(60)
        self.manager.check_integrity()

    # -- sessions ------------------------------------------------------------------------

    @rule(
        text=prompts(),
        key=st.sampled_from([None, None, *KEYS]),
        computes=st.integers(0, LONGEST),
        least=st.integers(0, 2),
    )
    def open(self, text: tuple[int, ...], key: CacheKey | None, computes: int, least: int) -> None:
        if key is not None and any(one.key == key for one in self.opened):
            return
        try:
            entry, left = self.manager.open_session(
                text, key, min_left=least, max_context_length=LONGEST + 1
            )
        except (CacheInUseError, PoolExhaustedError):  # in use: by one that was given up
            return
        self.texts.add(text)
        assert entry.token_count == len(text) - left
        check(entry, text)
        self.opened.append(Opened(key, entry, text))
        self.compute(len(self.opened) - 1, computes)

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 9), count=st.integers(1, LONGEST))
    def compute(self, which: int, count: int) -> None:
        _, entry, text = self.opened[which % len(self.opened)]
        try:
            held = entry.token_count
            new = computed(text[: held + count], held, LAYOUT)
            if new.shape[2]:
                entry.extend(new, -new)
            check(entry, text)
        except (EntryRemovedError, PoolExhaustedError, ContextOverflowError):
            return  # it expired, or there is no room

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 9))
    def close(self, which: int) -> None:
        _, entry, text = self.opened.pop(which % len(self.opened))
        with suppress(EntryRemovedError):
            self.manager.close_session(entry, text)

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 9), count=st.integers(0, LONGEST))
    def close_with_less(self, which: int, count: int) -> None:
        """A caller that tells of some tokens alone; those that were reused are among them."""
        _, entry, text = self.opened.pop(which % len(self.opened))
        try:
            self.manager.close_session(entry, text[:count])
        except InvalidTokensError:
            self.manager.close_session(entry, text)
        except EntryRemovedError:
            return

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        """A caller that ends without closing: the session is open until it expires."""
        self.opened.pop(which % len(self.opened))

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 9))
    def look(self, which: int) -> None:
        with suppress(EntryRemovedError):
            self.views.append(self.opened[which % len(self.opened)].entry.keys())

    @rule()
    def end_views(self) -> None:
        self.views.clear()

    # -- what leaves ---------------------------------------------------------------------

    @rule(share=st.floats(0.01, 1))
    def make_room(self, share: float) -> None:
        with suppress(PoolExhaustedError):
            self.manager.make_room(max(1, int(self.manager.pool.capacity * share)))

    @rule(seconds=st.sampled_from([1, 10, TTL + 1]))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(which=st.integers(0, 9))
    def remove(self, which: int) -> None:
        keys = self.manager.session_keys()
        if keys:
            self.manager.remove_cache_entry(keys[which % len(keys)])

    @rule()
    def restart(self) -> None:
        self.manager.close()
        self.opened.clear()
        self.views.clear()
        self.manager = self.new_manager()

    # -- tiers ---------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), fault=st.sampled_from(["", "", *FAULTS]))
    def fail(self, which: int, fault: str) -> None:
        self.tiers[which].fault = fault

    @rule(which=st.integers(0, 1), number=st.integers(0, 99))
    def damage(self, which: int, number: int) -> None:
        """Change what a tier keeps."""
        tier = self.tiers[which]
        keys = sorted(tier.keys(b"c/"))
        if keys:
            key = keys[number % len(keys)]
            with MemoryTier.read(tier, [key]) as (value,):
                assert value is not None
                changed = damaged(value)
            MemoryTier.remove(tier, [key])
            MemoryTier.write(tier, [(key, [changed])])

    @rule(which=st.integers(0, 1))
    def empty(self, which: int) -> None:
        tier = self.tiers[which]
        MemoryTier.remove(tier, list(tier.keys(b"c/")))
