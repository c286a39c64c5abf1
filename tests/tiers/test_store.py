"""`TierStore`: what was put comes back into an entry, from any level, and nothing else does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool import CacheKey, KVCacheEntry, KVLayout, MemoryPool
from kvpool.entry import StagedTokens
from kvpool.errors import ForkedProcessError, InvalidTierError, PluginError, TierError
from kvpool.layout import Packing
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import (
    Breaker,
    BreakerState,
    Item,
    Level,
    Tier,
    TierEvent,
    TierStore,
    _level,
    _load,
    chunks_of,
    open_level,
    open_tier,
)
from kvpool.tiers.memory import MemoryTier
from tests.support.children import in_child, needs_fork
from tests.support.kv import kv_like

LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=8, dtype="bfloat16")
IDENTITY = Identity("model@1", "salt", LAYOUT)
CHUNK = 16
TOKENS = list(range(1000, 1100))  # six chunks, and four tokens


def tokens(count: int = len(TOKENS)) -> bytes:
    return token_bytes(TOKENS[:count])


def computed(count: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the keys and values of the first tokens, as the model would compute them."""
    data = kv_like(3, 2, len(TOKENS), 8, seed).astype(LAYOUT.dtype)
    return data[:, 0, :, :count], data[:, 1, :, :count]


def new_entry(held: int = 0, room: int = 128, packing: Packing = "head") -> KVCacheEntry:
    """Return an entry that holds the first tokens."""
    layout = KVLayout(3, 2, 8, "bfloat16", packing)
    pool = MemoryPool(1 << 20, backend="numpy")
    entry = KVCacheEntry.create(pool, layout, room, "test")
    if held:
        entry.extend(*computed(held))
    return entry


def holds(entry: KVCacheEntry, count: int) -> bool:
    """Return whether an entry holds exactly the first tokens, to the bit."""
    keys, values = computed(count)
    return (
        entry.token_count == count
        and entry.keys().tobytes() == keys.tobytes()
        and entry.values().tobytes() == values.tobytes()
    )


def store_of(*levels: str | Tier | Level, **options: Any) -> TierStore:
    return TierStore(levels, chunk_tokens=CHUNK, **options)


def filled(*levels: str | Tier | Level, count: int = len(TOKENS), **options: Any) -> TierStore:
    """Return a store that has the first tokens in every level."""
    store = store_of(*levels, **options)
    store.put(IDENTITY, tokens(count), *computed(count))
    assert store.drain(60) == 0
    return store


class SlowTier(MemoryTier):
    """Waits for an event before it reads or writes."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = threading.Event()
        self.reads = 0

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        self.reads += 1
        self.asked.set()
        assert self.go_on.wait(60)
        with super().read(keys) as values:
            yield values

    def write(self, items: Sequence[Item], /) -> int:
        self.asked.set()
        assert self.go_on.wait(60)
        return super().write(items)


class LateWriter(SlowTier):
    """Waits for an event before it writes alone."""

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        self.reads += 1
        with MemoryTier.read(self, keys) as values:
            yield values


class BrokenTier(MemoryTier):
    """Fails in every call."""

    def contains(self, _keys: Sequence[bytes], /) -> int:
        raise TierError("out of order")

    def read(self, _keys: Sequence[bytes], /) -> Any:
        raise TierError("out of order")

    def write(self, _items: Sequence[Item], /) -> int:
        raise TierError("out of order")


# -- what was put comes back -----------------------------------------------------------------


@pytest.mark.parametrize("packing", ["head", "layer", "token"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_what_was_put_is_loaded(packing: Packing, codec: str) -> None:
    with filled(f"memory:?codec={codec}") as store:
        entry = new_entry(packing=packing)
        loaded = store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert loaded.tokens == 96
        assert loaded.nbytes == 96 * LAYOUT.bytes_per_token
        assert (loaded.waited, loaded.reason) == (False, "done")


@pytest.mark.parametrize("held", [1, 15, 16, 17, 40, 95, 96, 100])
def test_an_entry_gets_what_it_lacks(held: int) -> None:
    with filled("memory:") as store:
        entry = new_entry(held)
        assert store.load(IDENTITY, tokens(), entry).tokens == max(0, 96 - held)
        assert holds(entry, max(held, 96))


@pytest.mark.parametrize("limit", [0, 1, 16, 31, 32, 33, 99, 100, 1000])
def test_a_limit_is_kept(limit: int) -> None:
    with filled("memory:") as store:
        entry = new_entry(10)
        store.load(IDENTITY, tokens(), entry, limit)
        assert holds(entry, min(96, max(limit, 10)))


def test_only_the_leading_run_is_loaded() -> None:
    tier = MemoryTier()
    with filled(tier) as store:
        names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
        tier.remove([names[3]])
        entry = new_entry()
        loaded = store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 48)
        assert loaded.reason == "absent"
        assert store.available(IDENTITY, tokens()) == 48


@pytest.mark.parametrize(
    "other",
    [
        IDENTITY._replace(model_id="model@2"),
        IDENTITY._replace(salt="another tenant"),
        IDENTITY._replace(layout=KVLayout(3, 2, 8, "float16")),
    ],
)
def test_another_identity_finds_nothing(other: Identity) -> None:
    with filled("memory:") as store:
        pool = MemoryPool(1 << 20, backend="numpy")
        entry = KVCacheEntry.create(pool, other.layout, 128, "test")
        assert store.load(other, tokens(), entry).tokens == 0
        assert store.available(other, tokens()) == 0


def test_other_tokens_find_what_they_have_in_common() -> None:
    changed = token_bytes([*TOKENS[:40], 7, *TOKENS[41:]])
    with filled("memory:") as store:
        entry = new_entry()
        assert store.load(IDENTITY, changed, entry).tokens == 32
        assert holds(entry, 32)


def test_few_tokens_are_no_work() -> None:
    with store_of("memory:") as store:
        assert store.put(IDENTITY, tokens(15), *computed(15)) == 0
        assert store.load(IDENTITY, tokens(15), new_entry()).tokens == 0
        assert store.load(IDENTITY, b"", new_entry()).tokens == 0
        assert store.available(IDENTITY, tokens(15)) == 0
        assert store.stats().levels[0].misses == {}


def test_arrays_that_are_shorter_than_the_tokens() -> None:
    """The last tokens of a session may have no keys and values yet."""
    with store_of("memory:") as store:
        assert store.put(IDENTITY, tokens(), *computed(47)) == 2


def test_a_disk_keeps_it_for_the_next_process(tmp_path: Path) -> None:
    url = f"disk:{tmp_path / 'kv'}?capacity=16MiB&codec=zstd"
    filled(url).close()
    with store_of(url) as store:
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)


def test_a_lossy_codec_gives_what_it_promises() -> None:
    with filled("memory:?codec=int8") as store:
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        exact = computed(96)[0].astype(np.float32)
        assert np.abs(entry.keys().astype(np.float32) - exact).max() < np.abs(exact).max() / 100


# -- levels ----------------------------------------------------------------------------------


def test_every_level_gets_what_is_put() -> None:
    with filled("memory:", "memory:") as store:
        assert [level.stored for level in store.stats().levels] == [6, 6]


def test_what_a_later_level_has_is_handed_up() -> None:
    first, second = MemoryTier(), MemoryTier()
    with filled(second):
        pass
    second = MemoryTier()
    with filled(second) as before, store_of(first, second) as store:
        del before
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert store.drain(60) == 0
        assert first.stats().values == 6
        again = new_entry()
        store.load(IDENTITY, tokens(), again)
        assert holds(again, 96)
        assert [level.hits for level in store.stats().levels] == [6, 6]


def test_a_run_goes_on_in_another_level() -> None:
    first, second = MemoryTier(), MemoryTier()
    names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
    with filled(first, second) as store:
        first.remove([names[2], names[3]])
        second.remove([names[0], names[4]])
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert [level.hits for level in store.stats().levels] == [4, 2]


def test_what_a_level_has_is_not_handed_up_again() -> None:
    class Watched(MemoryTier):
        def __init__(self) -> None:
            super().__init__()
            self.written: list[bytes] = []

        def write(self, items: Sequence[Item], /) -> int:
            self.written += [key for key, _ in items]
            return super().write(items)

    first, second = Watched(), MemoryTier()
    names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
    with filled(first, second) as store:
        first.remove([names[2]])
        first.written.clear()
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert store.drain(60) == 0
        assert first.written == [names[2]]


# -- faults ----------------------------------------------------------------------------------


def corrupted(tier: MemoryTier, key: bytes, at: int = -1) -> None:
    """Change a byte of a value."""
    with tier.read([key]) as (value,):
        assert value is not None
        bad = bytearray(value)
    bad[at] ^= 1
    tier.remove([key])
    tier.write([(key, [bad])])


def test_a_wrong_chunk_is_a_miss_and_removed() -> None:
    tier, events = MemoryTier(), list[TierEvent]()
    names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
    with filled(tier, on_event=events.append) as store:
        corrupted(tier, names[2])
        entry = new_entry()
        loaded = store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 32)
        assert loaded.reason == "digest"
        assert store.stats().levels[0].misses == {"digest": 1, "behind": 3}
        assert tier.contains([names[2]]) == 0
        wrong = [event for event in events if event.kind == "wrong"]
        assert [(event.reason, event.name) for event in wrong] == [("digest", names[2][2:].hex())]
        store.put(IDENTITY, tokens(), *computed(100))  # and it is written anew
        store.drain(60)
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)


def test_a_newer_chunk_is_a_miss_and_stays() -> None:
    tier = MemoryTier()
    names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
    with filled(tier) as store:
        corrupted(tier, names[0], 9)  # the high byte of the version
        entry = new_entry()
        assert store.load(IDENTITY, tokens(), entry).reason == "version"
        assert entry.token_count == 0
        assert tier.contains([names[0]]) == 1


def test_a_wrong_chunk_of_one_level_is_taken_from_the_next() -> None:
    first, second = MemoryTier(), MemoryTier()
    names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
    with filled(first, second) as store:
        corrupted(first, names[1])
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)


def test_a_tier_that_fails_is_a_miss() -> None:
    with store_of(BrokenTier(), "memory:") as store:
        store.put(IDENTITY, tokens(), *computed(100))
        assert store.drain(60) == 0
        entry = new_entry()
        loaded = store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert loaded.tokens == 96
        broken, good = store.stats().levels
        assert broken.stored == 0
        assert broken.dropped >= good.stored == 6
        assert broken.misses["unreachable"] >= 1


def test_a_tier_that_hangs_costs_its_budget_alone() -> None:
    slow = SlowTier()
    level = Level(slow, budget=0.05)
    with filled(level, "memory:") as store:
        slow.go_on.clear()
        entry = new_entry()
        store.load(IDENTITY, tokens(), entry)
        assert holds(entry, 96)
        assert store.stats().levels[0].misses["unreachable"] >= 1
        slow.go_on.set()


@pytest.mark.parametrize("budget", [None, 30.0])
@pytest.mark.parametrize("fault", [SystemExit(3), GeneratorExit(), ValueError("a bug"), None, 99])
def test_writing_goes_on_whatever_a_tier_does(budget: float | None, fault: Any) -> None:
    class Faulty(MemoryTier):
        is_faulty = True

        def write(self, items: Sequence[Item], /) -> int:
            if not self.is_faulty:
                return super().write(items)
            if isinstance(fault, BaseException):
                raise fault
            answer: int = fault
            return answer

    tier = Faulty()
    with store_of(Level(tier, budget=budget)) as store:
        store.put(IDENTITY, tokens(16), *computed(16))
        assert store.drain(60) == 0
        figures = store.stats().levels[0]
        assert (figures.dropped, figures.stored, figures.refused) == (1, 0, 0)
        tier.is_faulty = False
        store.put(IDENTITY, tokens(16), *computed(16))
        assert store.drain(60) == 0
        assert store.stats().levels[0].stored == 1


@pytest.mark.parametrize("answer", [-2, 99, None, "6"])
def test_a_run_that_cannot_be_is_a_miss(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    tier = MemoryTier()
    with filled(tier) as store:
        monkeypatch.setattr(tier, "contains", lambda _keys: answer)
        assert store.available(IDENTITY, tokens()) == 0
        assert store.levels[0].run(list(chunks_of(IDENTITY, tokens(), CHUNK))) is None


def test_a_load_reads_and_does_not_ask_before(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = MemoryTier()
    with filled(tier, count=50) as store:
        monkeypatch.setattr(tier, "contains", lambda _keys: pytest.fail("a request for each chunk"))
        entry = new_entry()
        loaded = store.load(IDENTITY, tokens(), entry)
        assert (loaded.tokens, loaded.reason) == (48, "absent")
        assert holds(entry, 48)


def test_closing_closes_all_tiers_whatever_one_raises() -> None:
    class Stubborn(MemoryTier):
        def close(self) -> None:
            raise ValueError("a bug")

    good = MemoryTier()
    store = store_of(Stubborn(), good)
    with pytest.raises(ValueError, match="a bug"):
        store.close()
    with pytest.raises(TierError, match="closed"):
        good.stats()


def test_what_is_told_of_a_drain_may_wait_for_the_store() -> None:
    """The progress of a drain is told without a lock."""
    slow, waited = SlowTier(), list[bool]()
    store = store_of(Level(slow, budget=None))
    slow.go_on.clear()
    store.put(IDENTITY, tokens(), *computed(100))

    def tell(_done: int, _total: int) -> None:
        slow.go_on.set()
        thread = threading.Thread(target=store.stats)
        thread.start()
        thread.join(60)
        waited.append(thread.is_alive())

    store.close(60, tell)
    assert waited
    assert not any(waited)
    assert store.stats().levels[0].stored == 6


def test_a_load_has_a_budget() -> None:
    layout = KVLayout(1, 1, 4096, "float32")
    identity = Identity("large", "", layout)
    keys = np.zeros((1, 1, 64, 4096), np.float32)
    data = token_bytes(list(range(64)))
    slow = SlowTier()
    with TierStore([Level(slow, budget=None)], chunk_tokens=1, load_budget=0.0) as store:
        store.put(identity, data, keys, keys)
        store.drain(60)
        entry = KVCacheEntry.create(MemoryPool(1 << 24, backend="numpy"), layout, 64, "test")
        loaded = store.load(identity, data, entry)
        assert (loaded.tokens, loaded.reason) == (0, "late")
        assert store.stats().levels[0].misses == {"late": 1, "behind": 63}
        assert slow.reads == 0


# -- batch by batch --------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two chunks in a batch."""
    monkeypatch.setattr(_load, "_BATCH", 2 * CHUNK * LAYOUT.bytes_per_token)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("budget", ["none", "60"])
@pytest.mark.parametrize("count", [32, 50, 64, 100])
def test_a_load_of_several_batches(tmp_path: Path, budget: str, count: int) -> None:
    level = f"disk:{tmp_path / 'kv'}?capacity=16MiB&budget={budget}"
    with filled(level) as store:
        entry = new_entry(20)
        told: list[TierEvent] = []
        loaded = store.load(IDENTITY, tokens(), entry, limit=count, on_event=told.append)
        assert holds(entry, min(count, 96))
        assert loaded.tokens == sum(event.tokens for event in told) == min(count, 96) - 20
        figures = store.stats().levels[0]
        assert (figures.hits, sum(figures.misses.values())) == (-(-(min(count, 96) - 16) // 16), 0)


@pytest.mark.usefixtures("small_batches")
def test_the_next_batch_is_fetched_while_one_is_written() -> None:
    slow = SlowTier()
    with filled(Level(slow, budget=None)) as store:

        class Waiting:
            """An entry that counts no tokens before the next batch was asked for."""

            def __init__(self, entry: KVCacheEntry) -> None:
                self.entry, self.reads = entry, list[int]()
                self.token_count = 0

            def stage(self, count: int) -> StagedTokens:
                return self.entry.stage(count)

            def extend_staged(self, staged: StagedTokens) -> int:
                wanted = min(len(self.reads) + 2, 3)
                until = time.monotonic() + 60
                while slow.reads < wanted and time.monotonic() < until:
                    time.sleep(0.001)
                self.reads.append(slow.reads)
                self.token_count = self.entry.extend_staged(staged)
                return self.token_count

            def truncate(self, token_count: int) -> None:
                raise AssertionError(f"nothing is dropped, and not from {token_count} on")

        entry = Waiting(new_entry())
        assert store.load(IDENTITY, tokens(), entry).tokens == 96
        assert entry.reads == [2, 3, 3]
        assert holds(entry.entry, 96)


@pytest.mark.usefixtures("small_batches")
def test_what_was_fetched_ahead_and_is_not_wanted_stays_as_it_is(tmp_path: Path) -> None:
    """A wrong chunk behind the end of a load is found by the load that needs it."""
    path = tmp_path / "kv"
    with filled(f"disk:{path}?capacity=16MiB") as store:
        tier = store.levels[0].breaker
        third = list(chunks_of(IDENTITY, tokens(), CHUNK))[2]
        tier.remove([third.key])
        tier.write([(third.key, [b"wrong" * 100])])
        told: list[TierEvent] = []
        entry = new_entry(0, room=20)
        assert store.load(IDENTITY, tokens(), entry, on_event=told.append).reason == "room"
        assert (entry.token_count, told, tier.contains([third.key])) == (0, [], 1)
        loaded = store.load(IDENTITY, tokens(), new_entry(), on_event=told.append)
        assert (loaded.tokens, loaded.reason) == (32, "magic")
        assert [event.kind for event in told] == ["loaded", "wrong"]
        assert tier.contains([third.key]) == 0
    assert open_tier(f"disk:{path}?capacity=16MiB").stats().values == 5


def test_an_entry_without_room_keeps_what_it_held() -> None:
    with filled("memory:") as store:
        entry = new_entry(20, room=50)
        loaded = store.load(IDENTITY, tokens(), entry)
        assert loaded.reason == "room"
        assert holds(entry, 20)


def test_an_error_while_loading_leaves_whole_tokens() -> None:
    class Interrupted:
        """An entry whose tokens are not counted once they are written."""

        def __init__(self, entry: KVCacheEntry) -> None:
            self.entry = entry

        @property
        def token_count(self) -> int:
            return self.entry.token_count

        def stage(self, count: int) -> StagedTokens:
            return self.entry.stage(count)

        def extend_staged(self, _staged: StagedTokens) -> int:
            raise KeyboardInterrupt

        def truncate(self, token_count: int) -> None:
            self.entry.truncate(token_count)

    with filled("memory:") as store:
        entry = new_entry(20)
        with pytest.raises(KeyboardInterrupt):
            store.load(IDENTITY, tokens(), Interrupted(entry))
        assert holds(entry, 20)
        assert entry.held(0) == 20
        store.load(IDENTITY, tokens(), entry)  # the chunk is claimed by none
        assert holds(entry, 96)


# -- the queue -------------------------------------------------------------------------------


def test_a_full_queue_drops_stores_and_no_loads() -> None:
    slow = SlowTier()
    level = Level(slow, budget=None, queue_bytes=3 * CHUNK * LAYOUT.bytes_per_token)
    with filled("memory:") as other, store_of(level) as store:
        del other
        slow.go_on.clear()
        assert store.put(IDENTITY, tokens(), *computed(100)) == 3
        figures = store.stats().levels[0]
        assert figures.dropped == 3
        assert figures.queued_nbytes == 3 * CHUNK * LAYOUT.bytes_per_token
        slow.go_on.set()
        assert store.drain(60) == 0
        entry = new_entry()
        assert store.load(IDENTITY, tokens(), entry).tokens == 48


@pytest.mark.parametrize("hold", [False, True])
def test_arrays_are_copied_or_held_until_they_are_written(hold: bool) -> None:
    slow = SlowTier()
    slow.go_on.clear()
    with store_of(Level(slow, budget=None)) as store:
        store.put(IDENTITY._replace(salt="another"), tokens(16), *computed(16))
        assert slow.asked.wait(60)  # so that what follows waits in the queue
        entry = new_entry(64)
        pool = entry.pool
        store.put(IDENTITY, tokens(64), entry.keys(), entry.values(), hold=hold)
        pool.deallocate(entry.block)
        assert (pool.stats().used > 0) is hold
        slow.go_on.set()
        assert store.drain(60) == 0
        assert pool.stats().used == 0
        loaded = new_entry()
        store.load(IDENTITY, tokens(), loaded)
        assert holds(loaded, 64)


@pytest.mark.parametrize("stored", [0, 2])
def test_what_waits_to_be_written_is_loaded(stored: int) -> None:
    late = LateWriter()
    level = Level(late, budget=None)
    with filled(level, count=stored * CHUNK) as store:
        late.go_on.clear()
        assert store.put(IDENTITY, tokens(), *computed(100)) == 6 - stored
        assert store.available(IDENTITY, tokens()) == 96
        entry = new_entry()
        assert store.load(IDENTITY, tokens(), entry).tokens == 96
        assert holds(entry, 96)
        assert late.reads == (1 if stored else 0)  # a tier without any of them is not asked
        assert (store.stats().levels[0].hits, level.bandwidth) == (6, None)
        chunks = list(chunks_of(IDENTITY, tokens(), CHUNK))
        assert [level.knows(chunk) for chunk in chunks] == [True] * stored + [False] * (6 - stored)
        late.go_on.set()
        assert store.drain(60) == 0
        assert all(map(level.knows, chunks))
        late.reads = 0
        assert store.load(IDENTITY, tokens(), new_entry()).tokens == 96
        assert late.reads == 1
        assert level.bandwidth is not None


def test_a_wrong_chunk_hides_what_waits_behind_it() -> None:
    late = LateWriter()
    with filled(Level(late, budget=None), count=2 * CHUNK) as store:
        late.go_on.clear()
        store.put(IDENTITY, tokens(), *computed(100))
        second = list(chunks_of(IDENTITY, tokens(), CHUNK))[1]
        late.remove([second.key])
        MemoryTier.write(late, [(second.key, [b"wrong"])])
        entry = new_entry()
        assert store.load(IDENTITY, tokens(), entry).tokens == CHUNK
        assert holds(entry, CHUNK)
        late.go_on.set()


def test_a_session_that_waits_to_be_written_is_found_and_can_be_removed() -> None:
    late = LateWriter()
    late.go_on.clear()
    key = CacheKey("chat", "mine")
    with store_of(Level(late, budget=None)) as store:
        store.put(IDENTITY, tokens(16), *computed(16))
        assert late.asked.wait(60)  # so that what follows waits in the queue
        for count in (3, 5):
            store.put_session(IDENTITY, key, tokens(count))
        found = store.find_session(IDENTITY, key)
        assert found is not None
        assert found.tokens.tolist() == TOKENS[:5]
        assert store.find_session(IDENTITY, CacheKey("chat", "other")) is None
        threading.Timer(0.05, late.go_on.set).start()
        assert store.remove_session(found.name)
        assert store.find_session(IDENTITY, key) is None
        assert store.drain(60) == 0
        assert store.sessions() == []


def test_what_becomes_known_meanwhile_leaves_no_lease_in_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if another thread had written the chunk between two looks of one call."""
    tier, entry = SlowTier(), new_entry(32)
    level = Level(tier, budget=None)
    with store_of(level) as store:
        tier.go_on.clear()
        store.put(Identity("another model", "", LAYOUT), tokens(16), *computed(16))
        assert tier.asked.wait(60)  # what follows stays in the queue
        looks = itertools.count()
        monkeypatch.setattr(level, "knows", lambda _: next(looks) % 2 == 1)
        store.put(IDENTITY, tokens(32), entry.keys(), entry.values())
        assert not entry.block.is_leased
        tier.go_on.set()


def test_a_tier_that_does_not_answer_gets_no_chunks() -> None:
    with store_of(BrokenTier()) as store:
        for _ in range(3):
            store.available(IDENTITY, tokens())
        assert store.put(IDENTITY, tokens(), *computed(100)) == 0
        assert store.stats().levels[0].dropped == 6


def test_what_a_level_had_long_ago_is_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with filled("memory:") as store:
        monkeypatch.setattr(_level, "_KNOWN_FOR", 0.0)
        assert store.put(IDENTITY, tokens(), *computed(100)) == 6


def test_what_a_level_has_is_remembered_of_some_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_level, "_KNOWN", 2)
    slow = SlowTier()
    with filled(slow) as store:
        slow.go_on.clear()  # what is written now would be remembered instead of the last two
        assert store.put(IDENTITY, tokens(), *computed(100)) == 4
        slow.go_on.set()


def test_what_a_level_has_is_not_queued_again() -> None:
    with filled("memory:") as store:
        assert store.put(IDENTITY, tokens(), *computed(100)) == 0
        assert store.stats().levels[0].stored == 6


def test_what_was_evicted_is_queued_again() -> None:
    tier = MemoryTier()
    with filled(tier) as store:
        names = [chunk.key for chunk in chunks_of(IDENTITY, tokens(), CHUNK)]
        tier.remove(names)
        store.load(IDENTITY, tokens(), new_entry())
        assert store.put(IDENTITY, tokens(), *computed(100)) >= 1


@pytest.mark.parametrize(
    ("start", "count", "chunks"),
    [(0, 100, 6), (1, 100, 6), (16, 100, 5), (80, 100, 1), (95, 100, 1), (96, 100, 0), (40, 70, 2)],
)
def test_a_tail_is_put_alone(start: int, count: int, chunks: int) -> None:
    with store_of("memory:") as store:
        assert store.put(IDENTITY, tokens(count), *computed(count), start=start) == chunks


def test_a_session_that_is_cut_again_and_again_is_there_in_the_end() -> None:
    """And the tails of other sessions, of which some begin alike, are not taken for its own."""
    other = Identity("another model", "salt", LAYOUT)
    longer = token_bytes([*TOKENS[:90], *range(20)])
    with store_of("memory:") as store:
        for start in (80, 64, 48, 16, 0):
            for identity, held in (IDENTITY, tokens()), (other, tokens()), (IDENTITY, longer):
                count = min(start + 32, 96)
                store.put(identity, held[: count * 8], *computed(count), start=start)
                assert store.drain(60) == 0  # else a chunk that is queued may be queued again
        assert store.stats().levels[0].stored == 6 + 6 + 1
        for identity, held in (IDENTITY, tokens()), (other, tokens()), (IDENTITY, longer):
            assert store.available(identity, held) == 96


def test_closing_writes_what_is_queued_and_tells_how_far_it_is() -> None:
    slow, told = SlowTier(), list[tuple[int, int]]()
    store = store_of(Level(slow, budget=None))
    slow.go_on.clear()
    store.put(IDENTITY, tokens(), *computed(100))

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        slow.go_on.set()

    store.close(60, tell)
    assert store.stats().levels[0].stored == 6
    total = 6 * CHUNK * LAYOUT.bytes_per_token
    assert told[0] == (0, total)
    assert told[-1] == (total, total)


def test_closing_has_a_deadline() -> None:
    slow = SlowTier()
    store = store_of(Level(slow, budget=0.05))
    slow.go_on.clear()
    layout = KVLayout(1, 1, 1 << 20, "float32")  # larger than a batch, so that some wait
    keys = np.zeros((1, 1, 4, 1 << 20), np.float32)
    with TierStore([Level(slow, budget=0.05)], chunk_tokens=1) as large:
        large.put(Identity("large", "", layout), token_bytes([1, 2, 3, 4]), keys, keys)
        large.close(0.05)
        assert large.stats().levels[0].dropped >= 2
    slow.go_on.set()
    store.close()


def test_a_store_that_is_forgotten_ends_its_threads() -> None:
    before = set(threading.enumerate())
    store = filled("memory:")
    new = set(threading.enumerate()) - before
    (thread,) = [one for one in new if one.name.startswith("kvpool writes")]
    del store
    thread.join(60)
    assert not thread.is_alive()


# -- one load at a time ------------------------------------------------------------------------


class WatchedLoads(dict[bytes, Any]):
    """The loads that are under way; `looked` is released by each load that has looked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = threading.Semaphore(0)

    def setdefault(self, name: bytes, lock: Any = None, /) -> Any:
        found = super().setdefault(name, lock)
        self.looked.release()
        return found


def test_a_second_load_of_the_same_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, loads = SlowTier(), WatchedLoads()
    with filled(Level(slow, budget=None)) as store:
        monkeypatch.setattr(store, "_loading", loads)
        slow.go_on.clear()
        slow.asked.clear()
        first, second = new_entry(), new_entry()
        results: dict[str, Any] = {}

        def load(name: str, entry: KVCacheEntry) -> None:
            results[name] = store.load(IDENTITY, tokens(), entry)

        threads = [threading.Thread(target=load, args=("first", first))]
        threads[0].start()
        assert slow.asked.wait(60)
        threads.append(threading.Thread(target=load, args=("second", second)))
        threads[1].start()
        for _ in threads:
            assert loads.looked.acquire(timeout=60)
        assert slow.reads == 1
        slow.go_on.set()
        for thread in threads:
            thread.join(60)
        assert results["first"].tokens == 96
        assert (results["second"].tokens, results["second"].waited) == (0, True)
        assert holds(first, 96)
        store.load(IDENTITY, tokens(), second)
        assert holds(second, 96)


def test_many_threads_put_and_load() -> None:
    errors: list[BaseException] = []
    with store_of("memory:?codec=zstd") as store:

        def work(seed: int) -> None:
            identity = IDENTITY._replace(salt=str(seed % 2))
            try:
                for _ in range(10):
                    store.put(identity, tokens(), *computed(100))
                    entry = new_entry()
                    store.load(identity, tokens(), entry)
                    assert holds(entry, entry.token_count)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert errors == []


# -- the estimate ------------------------------------------------------------------------------


def test_a_tier_that_is_slower_than_the_model_is_not_asked() -> None:
    with filled("memory:") as store:
        store.load(IDENTITY, tokens(), new_entry())  # its bandwidth is known from here on
        store.note_compute(10**9, 1e-9)
        loaded = store.load(IDENTITY, tokens(), new_entry())
        assert (loaded.tokens, loaded.reason) == (0, "declined")
        assert store.stats().levels[0].misses == {"declined": 1, "behind": 5}
        for _ in range(15):  # now and then it is tried all the same
            loaded = store.load(IDENTITY, tokens(), new_entry())
        assert loaded.tokens == 96


def test_a_tier_that_is_faster_than_the_model_is_asked() -> None:
    with filled("memory:") as store:
        store.note_compute(1, 3600.0)
        for _ in range(3):
            assert store.load(IDENTITY, tokens(), new_entry()).tokens == 96
        assert store.stats().compute_rate == pytest.approx(1 / 3600)
        bandwidth = store.stats().levels[0].bandwidth
        assert bandwidth is not None
        assert bandwidth > 0


# -- figures, events, arguments ----------------------------------------------------------------


def test_the_figures_add_up() -> None:
    events: list[TierEvent] = []
    with filled("memory:?codec=zstd", on_event=events.append) as store:
        store.load(IDENTITY, tokens(), new_entry(20))
        figures = store.stats().levels[0]
        assert (figures.hits, figures.tokens, figures.stored) == (5, 76, 6)
        assert figures.nbytes == 5 * CHUNK * LAYOUT.bytes_per_token
        assert 0 < figures.stored_nbytes < 6 * CHUNK * LAYOUT.bytes_per_token + 6 * 300
        assert figures.seconds > 0
        assert (figures.state, figures.codec, figures.queued_nbytes) == ("closed", "zstd", 0)
        (event,) = events
        assert (event.kind, event.level, event.tokens) == ("loaded", "memory:", 76)
        kept = store.levels[0].tier_stats()
        assert kept is not None
        assert kept.values == 6


def test_a_codec_that_cannot_store_it_is_counted() -> None:
    keys, values = computed(100)
    with store_of("memory:?codec=int8") as store:
        store.put(IDENTITY, tokens(), np.full_like(keys, np.inf), values)
        assert store.drain(60) == 0
        assert store.stats().levels[0].failed == 6


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        ("memory:?budget=soon", "'soon'"),
        ("memory:?budget=0", "'0'"),
        ("memory:?budget=inf", "'inf'"),
        ("memory:?speed=1", "no option 'speed'"),
        ("memory:?codec=zstd;level=50", "from 1 to 19"),
        (7, "a level is a URL"),
    ],
)
def test_levels_that_are_refused(level: Any, reason: str) -> None:
    with pytest.raises(InvalidTierError, match=reason):
        store_of("memory:", level)


def test_a_level_that_cannot_be_opened_closes_the_others(tmp_path: Path) -> None:
    url = f"disk:{tmp_path / 'kv'}?capacity=1MiB"
    with pytest.raises(PluginError):
        store_of(url, "nonsense:")
    open_tier(url).close()  # it is not open any more


def test_options_of_a_level() -> None:
    level = open_level("memory:?codec=int8,zstd&budget=2.5")
    assert level.codec.name == "int8,zstd"
    assert isinstance(level.breaker, Breaker)
    assert level.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("size", [0, -1, 1.5, "64"])
def test_sizes_of_chunks_that_are_refused(size: Any) -> None:
    with pytest.raises(InvalidTierError, match="chunk_tokens"):
        TierStore(["memory:"], chunk_tokens=size)


def closed_calls(store: TierStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put(IDENTITY, tokens(), *computed(100)),
        lambda: store.load(IDENTITY, tokens(), new_entry()),
        lambda: store.available(IDENTITY, tokens()),
    ]


def test_a_closed_store_is_refused() -> None:
    store = filled("memory:")
    store.close()
    store.close()
    for call in closed_calls(store):
        with pytest.raises(TierError, match="closed"):
            call()


@needs_fork
def test_a_child_is_refused() -> None:
    with filled("memory:") as store:

        def act() -> None:
            for call in closed_calls(store):
                with pytest.raises(ForkedProcessError):
                    call()
            with pytest.raises(ForkedProcessError):
                store.stats()
            with pytest.raises(ForkedProcessError):
                store.drain(60)
            store.close()

        in_child(act)
        assert store.load(IDENTITY, tokens(), new_entry()).tokens == 96
