"""`BlockStore`: a block comes back as it was given, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool import CacheKey, KVCacheManager
from kvpool.errors import InvalidArgumentError, InvalidTierError, PoolClosedError, TierError
from kvpool.eviction import names_of
from kvpool.eviction.lru import LruPolicy
from kvpool.integrations._blocks.store import BlockStats, BlockStore
from kvpool.tiers import Item, Level, Tier, TierStore, open_tier
from kvpool.tiers.memory import MemoryTier
from tests.support.sessions import Clock

SIZE = 10_001  # odd, and no multiple of anything
Bytes = NDArray[np.uint8]
MakeStore = Callable[..., BlockStore]


def block(number: int, size: int = SIZE) -> Bytes:
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)


def key(number: int) -> bytes:
    return b"engine's key %d" % number


def blocks(*numbers: int) -> list[tuple[bytes, Bytes]]:
    return [(key(number), block(number)) for number in numbers]


def loads(store: BlockStore, *numbers: int) -> list[bool]:
    """Load blocks; each is as it was given, or its memory is untouched."""
    targets = [np.full(SIZE, 7, np.uint8) for _ in numbers]
    found = store.load(
        [(key(number), target) for number, target in zip(numbers, targets, strict=True)]
    )
    for number, target, there in zip(numbers, targets, found, strict=True):
        assert np.array_equal(target, block(number) if there else np.full(SIZE, 7, np.uint8))
    return found


@pytest.fixture
def make_store() -> Iterator[MakeStore]:
    made: list[BlockStore] = []

    def make(*tiers: str | Tier | Level, pool: int = 0, identity: str = "model") -> BlockStore:
        manager = KVCacheManager(pool, backend="numpy") if pool else None
        levels = TierStore(tiers) if tiers else None
        made.append(BlockStore(identity, manager=manager, tiers=levels, owned=True))
        return made[-1]

    yield make
    for store in made:
        if store.manager is not None:
            with suppress(PoolClosedError):
                store.manager.check_integrity()
        store.close()


# -- what was given comes back ---------------------------------------------------------------


@pytest.mark.parametrize("tiers", [(), ("memory:",), ("memory:?codec=zstd", "memory:")])
@pytest.mark.parametrize("pool", [0, 1 << 20])
def test_a_block_comes_back(make_store: MakeStore, pool: int, tiers: tuple[str, ...]) -> None:
    if not pool and not tiers:
        pool = SIZE * 100
    store = make_store(*tiers, pool=pool)
    assert store.put(blocks(1, 2)) == [True, True]
    assert store.drain(60) == 0
    assert store.contains([key(3), key(1), key(4), key(2)]) == [False, True, False, True]
    assert loads(store, 3, 1, 4, 2) == [False, True, False, True]
    hits = store.stats().pool_hits, store.stats().tier_hits
    assert hits == ((2, 0) if pool else (0, 2))
    assert store.stats().misses == 2


def test_the_value_that_is_kept_first_stays(make_store: MakeStore) -> None:
    store = make_store("memory:", pool=1 << 20)
    store.put(blocks(1))
    assert store.put([(key(1), block(2))]) == [True]
    assert loads(store, 1) == [True]


def test_the_next_process_finds_it_on_the_disk(make_store: MakeStore, tmp_path: Path) -> None:
    url = f"disk:{tmp_path / 'kv'}?capacity=8MiB"
    first = make_store(url, pool=1 << 20)
    first.put(blocks(1, 2, 3))
    first.close()
    second = make_store(url, pool=1 << 20)
    assert loads(second, 2, 9, 3) == [True, False, True]
    assert loads(second, 2, 3) == [True, True]
    assert second.stats() == BlockStats(2, 2, 1, 0, 0)


@pytest.mark.parametrize("identity", ["other", ""])
def test_another_identity_finds_nothing(
    make_store: MakeStore, tmp_path: Path, identity: str
) -> None:
    url = f"disk:{tmp_path / 'kv'}?capacity=8MiB"
    with make_store(url) as store:
        store.put(blocks(1))
    other = make_store(url, identity=identity)
    assert other.contains([key(1)]) == [False]
    assert loads(other, 1) == [False]


def test_a_block_of_another_size_is_missing(make_store: MakeStore) -> None:
    store = make_store("memory:", pool=1 << 20)
    store.put(blocks(1))
    store.drain(60)
    target = np.zeros(SIZE + 10, np.uint8)
    assert store.load([(key(1), target)]) == [False]
    assert not target.any()


def test_what_a_lower_level_had_is_handed_up(make_store: MakeStore) -> None:
    upper, lower = MemoryTier(), MemoryTier()
    with make_store(lower) as store:
        store.put(blocks(1))
        store.drain(60)
        names = list(lower.keys())
        values = {name: bytes(value) for name in names for value in read(lower, name)}
    again = MemoryTier()
    again.write([(name, [value]) for name, value in values.items()])
    both = make_store(upper, again, pool=1 << 20)
    assert loads(both, 1) == [True]
    both.drain(60)
    assert sorted(upper.keys()) == sorted(values)
    again.remove(list(values))
    assert loads(both, 1) == [True]
    assert both.stats() == BlockStats(1, 1, 0, 0, 0)


def read(tier: Tier, name: bytes) -> Iterator[memoryview]:
    with tier.read([name]) as (value,):
        assert value is not None
        yield value


def test_a_removed_block_is_gone(make_store: MakeStore) -> None:
    store = make_store("memory:", pool=1 << 20)
    store.put(blocks(1, 2))
    store.drain(60)
    store.remove([key(1), key(5)])
    assert store.contains([key(1), key(2)]) == [False, True]
    assert loads(store, 1, 2) == [False, True]
    store.remove([key(2)])
    store.put(blocks(2))
    store.drain(60)
    assert store.manager is not None
    store.manager.clear()
    assert loads(store, 2) == [True]  # from the tier, which got it once more


def test_after_clear_nothing_is_left_but_what_others_keep_in_the_pool(
    make_store: MakeStore,
) -> None:
    tier = MemoryTier()
    store = make_store(tier, pool=8 << 20)
    assert store.manager is not None
    store.manager.allocate_entry(CacheKey("other", 1), 100)
    store.put(blocks(*range(300)))
    assert store.clear()
    assert list(tier.keys()) == []
    assert store.manager.keys() == [CacheKey("other", 1)]
    assert store.contains([key(1)]) == [False]
    store.put(blocks(1))  # the tier is not thought to have it
    store.drain(60)
    assert len(list(tier.keys())) == 1


def test_clear_tells_of_a_tier_that_fails(make_store: MakeStore) -> None:
    class Unlisted(MemoryTier):
        def keys(self, _prefix: bytes = b"", /) -> Iterator[bytes]:
            raise TierError("out of order")

    assert not make_store(Unlisted(), "memory:").clear()
    assert make_store(pool=1 << 20).clear()


class Watched(np.ndarray[Any, np.dtype[np.uint8]]):
    """Bytes that call a function when the store asks for their size, as it does while it copies."""

    when_asked: Callable[[], object] | None = None

    @property
    def nbytes(self) -> int:
        act = Watched.when_asked
        if act is not None:
            act()
        return self.size


@pytest.fixture
def watched() -> Iterator[Any]:
    value: Any = block(1).view(Watched)
    yield value
    Watched.when_asked = None


def test_a_block_that_is_being_copied_is_not_there(make_store: MakeStore, watched: Any) -> None:
    store = make_store(pool=1 << 20)
    seen: list[tuple[list[bool], list[bool], list[bool]]] = []

    def look() -> None:
        if len(store.manager or ()) and not seen:
            Watched.when_asked = None
            seen.append((store.contains([key(1)]), loads(store, 1), store.put(blocks(1))))

    Watched.when_asked = look
    assert store.put([(key(1), watched)]) == [True]
    assert seen == [([False], [False], [False])]
    assert loads(store, 1) == [True]


def test_an_interrupted_copy_leaves_nothing(make_store: MakeStore, watched: Any) -> None:
    store = make_store(pool=1 << 20)

    def interrupt() -> None:
        if len(store.manager or ()):
            raise KeyboardInterrupt

    Watched.when_asked = interrupt
    with pytest.raises(KeyboardInterrupt):
        store.put([(key(1), watched)])
    Watched.when_asked = None
    assert store.contains([key(1)]) == [False]
    assert loads(store, 1) == [False]
    assert store.put(blocks(1)) == [True]
    assert loads(store, 1) == [True]


# -- the pool is bounded ---------------------------------------------------------------------


def test_a_full_pool_evicts(make_store: MakeStore) -> None:
    store = make_store(pool=5 * SIZE)
    for number in range(20):
        assert store.put(blocks(number)) == [True]
    found = loads(store, *range(20))
    assert 3 <= sum(found) <= 5
    assert found[19]


def test_the_last_block_of_a_prompt_leaves_the_pool_first(make_store: MakeStore) -> None:
    store = make_store(pool=4 * 12_288)
    store.put(blocks(0, 1, 2, 3))
    store.put(blocks(4))
    assert loads(store, 0, 1, 2, 3) == [True, True, True, False]
    store.put(blocks(5))
    assert loads(store, 4, 0, 1, 2) == [False, True, True, True]
    store.put(blocks(6))
    assert loads(store, 0, 1, 2) == [True, True, True]


@pytest.mark.parametrize(
    "policy", ["arc", "gdsf", "hit-density", "lfu", "s3-fifo", "sieve", "slru"]
)
def test_every_policy_takes_blocks(policy: str) -> None:
    with KVCacheManager(6 * 12_288, "numpy", policy=policy) as manager:
        store = BlockStore("model", manager=manager)
        for number in range(40):
            store.put(blocks(number % 9, number % 4))
            loads(store, number % 4, number % 7)
            manager.check_integrity()
        assert 0 < loads(store, *range(9)).count(True) < 9


class Watching(LruPolicy):
    """Notes the names of what is admitted."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[Sequence[Hashable]] = []

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        self.names.append(names_of(item) if hasattr(item, "names") else ())
        super().admit(item, nbytes)


def test_a_policy_has_a_name_for_each_block() -> None:
    policy = Watching()
    with KVCacheManager(1 << 20, "numpy", policy=policy) as manager:
        store = BlockStore("model", manager=manager)
        store.put(blocks(1))
        assert policy.names == [tuple(manager)]


def test_a_block_that_fits_nowhere_is_shed(make_store: MakeStore) -> None:
    store = make_store(pool=SIZE // 2)
    assert store.put(blocks(1)) == [False]
    assert store.stats() == BlockStats(0, 0, 0, 0, 1)


def test_what_the_pool_has_no_room_for_goes_to_the_tier(make_store: MakeStore) -> None:
    store = make_store("memory:", pool=SIZE // 2)
    assert store.put(blocks(1)) == [True]
    store.drain(60)
    assert loads(store, 1) == [True]


def test_a_closed_manager_is_a_miss(make_store: MakeStore) -> None:
    store = make_store("memory:", pool=1 << 20)
    store.put(blocks(1))
    store.drain(60)
    assert store.manager is not None
    store.manager.close()
    assert loads(store, 1) == [True]
    assert store.put(blocks(2)) == [True]


# -- tiers that fail -------------------------------------------------------------------------


class SlowTier(MemoryTier):
    """Waits for an event before it reads or writes."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        assert self.go_on.wait(60)
        with super().read(keys) as values:
            yield values

    def write(self, items: Sequence[Item], /) -> int:
        assert self.go_on.wait(60)
        return super().write(items)


class BrokenTier(MemoryTier):
    """Fails in every call."""

    def contains(self, _keys: Sequence[bytes], /) -> int:
        raise TierError("out of order")

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        self.contains(keys)
        with super().read(keys) as values:
            yield values

    def write(self, _items: Sequence[Item], /) -> int:
        raise TierError("out of order")


def test_a_broken_tier_is_a_miss(make_store: MakeStore) -> None:
    store = make_store(BrokenTier(), "memory:")
    assert store.put(blocks(1)) == [True]
    store.drain(60)
    assert store.contains([key(1), key(2)]) == [True, False]
    assert loads(store, 1, 2) == [True, False]


def test_a_full_queue_sheds_stores(make_store: MakeStore) -> None:
    tier = SlowTier()
    store = make_store(Level(tier, queue_bytes=3 * SIZE))
    kept = store.put(blocks(*range(10)))
    assert kept == [True, True, *[False] * 8]  # each is a byte longer in the queue
    assert store.stats().shed == 8
    tier.go_on.set()
    store.drain(60)
    assert loads(store, *range(10)) == kept


def test_a_slow_tier_is_a_miss(make_store: MakeStore) -> None:
    tier = SlowTier()
    store = make_store(Level(tier, budget=0.05))
    assert loads(store, 1) == [False]
    tier.go_on.set()


def test_what_is_late_is_a_miss(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tardy(MemoryTier):
        @contextmanager
        def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
            clock.now += 0.05
            with super().read(keys) as values:
                yield values

    tiers = TierStore([Tardy()])
    store = BlockStore("model", tiers=tiers, load_budget=0.01)
    monkeypatch.setattr("kvpool.integrations._blocks.store.time", SimpleNamespace(monotonic=clock))
    with tiers:
        store.put(blocks(1, 3))
        tiers.drain(60)
        assert loads(store, 1, 2, 3) == [True, False, False]
        assert tiers.stats().levels[0].misses == {"absent": 1, "late": 1}


def damaged(value: bytes) -> bytes:
    return value[:-20] + bytes([value[-20] ^ 1]) + value[-19:]


@pytest.mark.parametrize("change", [damaged, lambda value: value[:100], lambda _: b"x"])
def test_a_damaged_block_is_a_miss_and_written_again(
    make_store: MakeStore, change: Callable[[bytes], bytes]
) -> None:
    tier = MemoryTier()
    store = make_store(tier)
    store.put(blocks(1, 2, 3))
    store.drain(60)
    for name in list(tier.keys()):
        (value,) = (bytes(view) for view in read(tier, name))
        if value != b"" and value.endswith(bytes(block(2)[-20:]) + b"\0"):
            tier.remove([name])
            tier.write([(name, [change(value)])])
    assert loads(store, 1, 2, 3) == [True, False, True]
    assert tier.stats().values == 2
    store.put(blocks(2))
    store.drain(60)
    assert loads(store, 2) == [True]


def test_the_block_of_another_key_is_a_miss(make_store: MakeStore) -> None:
    tier = MemoryTier()
    store = make_store(tier)
    store.put(blocks(1, 2))
    store.drain(60)
    one, two = tier.keys()
    values = [bytes(view) for name in (one, two) for view in read(tier, name)]
    tier.remove([one, two])
    tier.write([(one, [values[1]]), (two, [values[0]])])
    assert loads(store, 1, 2) == [False, False]


# -- many threads ----------------------------------------------------------------------------


@pytest.mark.usefixtures("frequent_switches")
def test_threads_get_whole_blocks(make_store: MakeStore) -> None:
    store = make_store("memory:?capacity=40KiB", pool=4 * SIZE)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        try:
            for number in order.integers(0, 8, 200):
                if order.random() < 0.5:
                    store.put(blocks(int(number)))
                else:
                    loads(store, int(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    stats = store.stats()
    assert stats.pool_hits
    assert stats.pool_hits + stats.tier_hits + stats.misses + stats.kept + stats.shed == 800


# -- bad arguments ---------------------------------------------------------------------------


def test_a_store_needs_a_place() -> None:
    with pytest.raises(InvalidArgumentError, match="a manager, a store of tiers, or both"):
        BlockStore("model")


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_codec_that_changes_values_is_refused(codec: str) -> None:
    with (
        TierStore([f"memory:?codec={codec}"]) as tiers,
        pytest.raises(InvalidTierError, match=f"the codec '{codec}'.*changes values"),
    ):
        BlockStore("model", tiers=tiers)


@pytest.mark.parametrize("value", [b"", "text", 3, np.zeros((4, 4))[:, 1]])
def test_a_block_is_contiguous_bytes(make_store: MakeStore, value: object) -> None:
    store = make_store("memory:")
    with pytest.raises(InvalidArgumentError, match="contiguous bytes"):
        store.put([(key(1), value)])
    assert store.stats() == BlockStats(0, 0, 0, 0, 0)


def test_a_key_is_bytes(make_store: MakeStore) -> None:
    store: Any = make_store("memory:")
    for call in (store.contains, store.remove):
        with pytest.raises(InvalidArgumentError, match="must be bytes, not 'text'"):
            call(["text"])


def test_only_its_own_pool_and_tiers_are_closed() -> None:
    with (
        KVCacheManager(1 << 20, backend="numpy") as manager,
        TierStore([open_tier("memory:")]) as tiers,
    ):
        with BlockStore("model", manager=manager, tiers=tiers) as store:
            store.put(blocks(1))
        assert loads(store, 1) == [True]
