"""The contract of `kvpool.tiers.Tier` as tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import pytest

from kvpool.errors import ForkedProcessError, InvalidArgumentError, InvalidTierError, TierError
from kvpool.testing._process import run_in_child
from kvpool.tiers import MAX_KEY_BYTES, Part, Tier, TierStats

__all__ = ["TierSuite"]

SMALL_CAPACITY = 4 << 20
"""Bytes that the tier of `TierSuite.create_small` has room for, or a little fewer."""

# What a pattern, a URL, a path or a text protocol would read as something else.
ODD_KEYS = [
    b"*",
    b"?",
    b"[a]",
    b"a*",
    b"\\",
    b"/",
    b"//",
    b".",
    b"..",
    b"a/../b",
    b" ",
    b"%2F",
    b"\r\n",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff\xff",
    "ключ".encode(),
    bytes(range(128)),
    bytes(range(128, 256)),
    b"k" * MAX_KEY_BYTES,
    b"\xfe" * MAX_KEY_BYTES,
]


def name_of(number: int, namespace: bytes = b"c/") -> bytes:
    """Return a key as the names of chunks are: 32 bytes behind a namespace."""
    return namespace + random.Random(number).randbytes(32)


def value_of(number: int, nbytes: int = 1000) -> bytes:
    """Return bytes that no other number has."""
    return random.Random(-1 - number).randbytes(nbytes)


def copy_of(view: memoryview | None) -> bytes | None:
    """Return the bytes of a value that may be missing."""
    return None if view is None else bytes(view)


def values_at(tier: Tier, keys: Sequence[bytes]) -> list[bytes | None]:
    """Return copies of the values of some keys."""
    with tier.read(keys) as views:
        return [copy_of(view) for view in views]


def fill(tier: Tier, count: int, nbytes: int = 1000) -> list[bytes]:
    """Store values, and return their keys."""
    keys = [name_of(number) for number in range(count)]
    items = [(key, [value_of(number, nbytes)]) for number, key in enumerate(keys)]
    assert tier.write(items) == count
    return keys


class TierSuite:
    """Tests that every tier must pass. Subclass it in a test module, and override `create_tier`.

    Attributes
    ----------
    is_durable : bool
        Whether `reopen` gives a tier that has what the one before it had.
    evicts_oldest : bool
        Whether a full tier removes the values that were not used for the longest time.

    Notes
    -----
    The tests write up to 16 MiB to the tier of `create_tier`, at most 8 MiB in one value.
    """

    is_durable: ClassVar[bool] = True
    evicts_oldest: ClassVar[bool] = False

    def create_tier(self) -> Tier:
        """Open a tier whose store is empty, with room for at least 64 MiB."""
        raise NotImplementedError("override create_tier")

    def create_small(self) -> Tier | None:
        """Open a tier whose store is empty and has room for `SMALL_CAPACITY` bytes or a bit less.

        Returns
        -------
        Tier or None
            None if the room of the store is not the business of the tier.
        """
        return None

    def reopen(self, tier: Tier) -> Tier:
        """Close a tier, and open it again with the same store."""
        raise NotImplementedError(f"override reopen, or set is_durable to False, for {tier}")

    @pytest.fixture
    def tier(self) -> Iterator[Tier]:
        """Yield an empty tier, which is closed afterwards."""
        with self.create_tier() as tier:
            yield tier

    @pytest.fixture
    def small(self) -> Iterator[Tier]:
        """Yield an empty tier with little room, or skip the test."""
        tier = self.create_small()
        if tier is None:
            pytest.skip("the room of the store is not the business of this tier")
        with tier:
            yield tier

    # -- values under keys -------------------------------------------------------------------

    def test_it_is_a_tier_with_a_name(self, tier: Tier) -> None:
        """The name is a URL without options, and a person can read it."""
        assert isinstance(tier, Tier)
        assert ":" in tier.name
        assert "?" not in tier.name
        assert tier.name in repr(tier)

    def test_nothing_is_there_at_first(self, tier: Tier) -> None:
        """An empty tier has no value, no key and no bytes of values."""
        assert values_at(tier, [b"a", b"b"]) == [None, None]
        assert tier.contains([b"a"]) == 0
        assert tier.remove([b"a"]) == 0
        assert list(tier.keys()) == []
        assert tier.stats().values in {0, None}

    def test_no_keys_are_no_work(self, tier: Tier) -> None:
        """Every method takes an empty sequence."""
        assert values_at(tier, []) == []
        assert tier.write([]) == tier.contains([]) == tier.remove([]) == 0

    def test_what_is_written_is_read(self, tier: Tier) -> None:
        """In the order of the keys, with None for what is missing, and twice if asked twice."""
        keys = fill(tier, 5)
        asked = [keys[3], b"missing", keys[0], keys[3]]
        expected = [value_of(3), None, value_of(0), value_of(3)]
        assert values_at(tier, asked) == expected

    @pytest.mark.parametrize("nbytes", [1, 7, 100, 4096, 65537, 8 << 20])
    def test_values_of_any_size(self, tier: Tier, nbytes: int) -> None:
        """From one byte up to megabytes."""
        value = value_of(0, nbytes)
        assert tier.write([(b"key", [value])]) == 1
        assert values_at(tier, [b"key"]) == [value]

    def test_parts_are_one_value(self, tier: Tier) -> None:
        """Parts may be bytes, byte arrays and memory views, also empty ones."""
        numbers = np.arange(1000, dtype=np.float32)
        parts: list[Part] = [
            b"head",
            bytearray(b"er"),
            b"",
            memoryview(b"-view-")[1:],
            numbers.data,
            b"end",
        ]
        assert tier.write([(b"key", parts)]) == 1
        assert values_at(tier, [b"key"]) == [b"headerview-" + numbers.tobytes() + b"end"]

    def test_what_is_written_is_a_copy(self, tier: Tier) -> None:
        """Parts that are changed after the call do not change the value."""
        part = bytearray(value_of(0))
        tier.write([(b"key", [part])])
        part[:] = bytes(len(part))
        assert values_at(tier, [b"key"]) == [value_of(0)]

    def test_the_first_value_of_a_key_stays(self, tier: Tier) -> None:
        """Values never change; a key that is there counts as stored."""
        assert tier.write([(b"a", [b"first"]), (b"a", [b"second"])]) == 2
        assert tier.write([(b"a", [b"third"]), (b"b", [b"other"])]) == 2
        assert values_at(tier, [b"a", b"b"]) == [b"first", b"other"]

    @pytest.mark.parametrize("key", ODD_KEYS, ids=repr)
    def test_keys_are_bytes_of_any_kind(self, tier: Tier, key: bytes) -> None:
        """No key means anything else than itself."""
        tier.write([(b"other", [b"other"])])
        assert values_at(tier, [key]) == [None]
        assert tier.write([(key, [b"value"])]) == 1
        assert values_at(tier, [key]) == [b"value"]
        assert sorted(tier.keys()) == sorted([key, b"other"])
        assert list(tier.keys(key)) == [key]
        assert tier.remove([key]) == 1
        assert list(tier.keys()) == [b"other"]

    def test_odd_keys_are_kept_apart(self, tier: Tier) -> None:
        """All at the same time."""
        assert tier.write([(key, [key]) for key in ODD_KEYS]) == len(ODD_KEYS)
        assert values_at(tier, ODD_KEYS) == ODD_KEYS
        assert sorted(tier.keys()) == sorted(ODD_KEYS)

    def test_contains_counts_from_the_first_key_on(self, tier: Tier) -> None:
        """It stops at the first value that is missing."""
        keys = fill(tier, 4)
        assert tier.contains(keys) == 4
        tier.remove([keys[2]])
        assert tier.contains(keys) == 2
        assert tier.contains(keys[2:]) == 0
        assert tier.contains(keys[3:]) == 1

    def test_removed_values_are_gone(self, tier: Tier) -> None:
        """What is missing is not counted, and a removed key can be written again."""
        keys = fill(tier, 3)
        assert tier.remove([keys[0], b"missing", keys[2]]) == 2
        assert values_at(tier, keys) == [None, value_of(1), None]
        assert tier.write([(keys[0], [b"again"])]) == 1
        assert values_at(tier, keys[:1]) == [b"again"]

    def test_keys_by_prefix(self, tier: Tier) -> None:
        """Exactly those that begin with the prefix, each once."""
        groups = {b"c/": 20, b"s/": 5, b"c": 1, b"\xff\xff": 3}
        expected: dict[bytes, set[bytes]] = {}
        for prefix, count in groups.items():
            keys = {name_of(number, prefix) for number in range(count)}
            expected[prefix] = keys
            tier.write([(key, [b"value"]) for key in keys])
        every = set().union(*expected.values())
        found = list(tier.keys())
        assert len(found) == len(every)
        assert set(found) == every
        for prefix in groups:
            assert set(tier.keys(prefix)) == {key for key in every if key.startswith(prefix)}
        assert list(tier.keys(b"nothing")) == []

    def test_keys_may_be_removed_while_they_are_listed(self, tier: Tier) -> None:
        """An iteration goes on when the store changes."""
        fill(tier, 50)
        keys = tier.keys()
        assert sum(tier.remove([key]) for key in keys) == 50
        assert list(tier.keys()) == []

    def test_an_iteration_of_keys_may_be_given_up(self, tier: Tier) -> None:
        """The tier works on, and can be closed."""
        fill(tier, 10)
        iterator = tier.keys()
        next(iterator)
        assert tier.write([(b"new", [b"value"])]) == 1
        tier.close()
        del iterator

    # -- views -------------------------------------------------------------------------------

    def test_views_are_plain_bytes_that_cannot_be_written(self, tier: Tier) -> None:
        """A view is read-only, contiguous, and has one byte per element."""
        key = fill(tier, 1)[0]
        with tier.read([key]) as (view,):
            assert isinstance(view, memoryview)
            assert (view.format, view.itemsize, view.ndim) == ("B", 1, 1)
            assert view.c_contiguous
            assert view.readonly
            assert view.nbytes == 1000

    def test_views_stay_valid_inside_of_the_block(self, tier: Tier) -> None:
        """Whatever other threads do to the store meanwhile."""
        keys = fill(tier, 8, 20_000)

        def disturb() -> None:
            tier.remove(keys)
            tier.write([(name_of(100 + n), [value_of(100 + n, 20_000)]) for n in range(32)])

        with tier.read(keys) as views, ThreadPoolExecutor(1) as thread:
            thread.submit(disturb).result()
            thread.submit(disturb).result()
            for number, view in enumerate(views):
                assert copy_of(view) == value_of(number, 20_000)
        assert values_at(tier, keys) == [None] * 8

    def test_a_block_that_raises_is_left(self, tier: Tier) -> None:
        """An exception in the block reaches the caller, and the tier works on."""
        keys = fill(tier, 2)
        with pytest.raises(ZeroDivisionError), tier.read(keys):
            raise ZeroDivisionError
        assert values_at(tier, keys) == [value_of(0), value_of(1)]

    def test_blocks_can_be_nested(self, tier: Tier) -> None:
        """One thread may read, and write, while it reads."""
        keys = fill(tier, 2)
        with tier.read(keys[:1]) as (outer,), tier.read(keys[1:]) as (inner,):
            assert tier.write([(b"new", [b"value"])]) == 1
            assert [copy_of(outer), copy_of(inner)] == [value_of(0), value_of(1)]
        assert values_at(tier, [b"new"]) == [b"value"]

    # -- figures and room --------------------------------------------------------------------

    def test_stats_count_what_is_there(self, tier: Tier) -> None:
        """Values and bytes go up and down; a store that cannot tell says None."""
        before = tier.stats()
        assert isinstance(before, TierStats)
        assert before.evicted == before.refused == 0
        keys = fill(tier, 10, 10_000)
        tier.write([(keys[0], [b"another"])])
        after = tier.stats()
        assert after.values in {10, None}
        if before.nbytes is not None and after.nbytes is not None:
            assert after.nbytes - before.nbytes >= 100_000
        tier.remove(keys[:4])
        assert tier.stats().values in {6, None}

    def test_a_full_tier_keeps_its_limit(self, small: Tier) -> None:
        """It evicts or refuses, counts that, and what it says is there is there."""
        each = SMALL_CAPACITY // 64
        keys = [name_of(number) for number in range(256)]
        stored = 0
        for number, key in enumerate(keys):
            stored += small.write([(key, [value_of(number, each)])])
            stats = small.stats()
            assert stats.nbytes is None or stats.nbytes <= SMALL_CAPACITY
        found = values_at(small, keys)
        there = [number for number, value in enumerate(found) if value is not None]
        assert all(found[number] == value_of(number, each) for number in there)
        assert 16 <= len(there) <= 64
        stats = small.stats()
        assert stats.values in {len(there), None}
        assert stats.refused == len(keys) - stored
        assert stats.evicted + stats.refused >= len(keys) - len(there)
        assert small.evictions == stats.evicted

    def test_a_value_that_never_fits_is_refused(self, small: Tier) -> None:
        """Nothing is evicted for it."""
        small.write([(b"a", [b"value"])])
        assert small.write([(b"big", [bytes(2 * SMALL_CAPACITY)])]) == 0
        assert values_at(small, [b"a", b"big"]) == [b"value", None]
        assert (small.stats().evicted, small.stats().refused) == (0, 1)

    def test_what_was_used_stays_the_longest(self, small: Tier) -> None:
        """The values that were not used for the longest time are evicted."""
        if not self.evicts_oldest:
            pytest.skip("this tier evicts in another order")
        each = SMALL_CAPACITY // 64
        keys = fill(small, 16, each)
        for number in range(16, 400):
            assert values_at(small, keys[:1]) != [None]
            assert small.write([(name_of(number), [value_of(number, each)])]) == 1
        assert values_at(small, keys[1:]) == [None] * 15

    # -- threads, processes, the end -------------------------------------------------------

    def test_threads_see_whole_values(self, tier: Tier) -> None:
        """Threads that write, read and remove the same keys see all of a value, or none of it."""
        keys = [name_of(number) for number in range(16)]

        def work(seed: int) -> int:
            draws, seen = random.Random(seed), 0
            for _ in range(60):
                number = draws.randrange(16)
                tier.write([(keys[number], [value_of(number, 5000)])])
                for at, value in enumerate(values_at(tier, keys)):
                    assert value in {None, value_of(at, 5000)}
                    seen += value is not None
                if draws.random() < 0.2:
                    tier.remove([keys[draws.randrange(16)]])
            return seen

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(4)))

    def test_values_outlive_the_tier(self, tier: Tier) -> None:
        """What was written is there when the store is opened again."""
        if not self.is_durable:
            pytest.skip("this tier forgets")
        keys = fill(tier, 5)
        tier.remove(keys[:1])
        with self.reopen(tier) as again:
            assert values_at(again, keys) == [None, *(value_of(number) for number in range(1, 5))]
            assert sorted(again.keys()) == sorted(keys[1:])

    def test_closing_twice_is_fine(self, tier: Tier) -> None:
        """Every other call afterwards is refused, and the name stays."""
        keys, name = fill(tier, 1), tier.name
        tier.close()
        tier.close()
        assert tier.name == name
        for call in calls(tier, keys):
            with pytest.raises(TierError, match="closed"):
                call()

    def test_closing_waits_for_readers(self, tier: Tier) -> None:
        """A block that another thread is in goes on to see its values."""
        key = fill(tier, 1, 100_000)[0]
        with ThreadPoolExecutor(1) as thread:
            with tier.read([key]) as (view,):
                closing = thread.submit(tier.close)
                for _ in range(20):
                    assert copy_of(view) == value_of(0, 100_000)
            closing.result(timeout=60)
        with pytest.raises(TierError, match="closed"):
            tier.contains([key])

    def test_child_is_refused(self, tier: Tier) -> None:
        """In a child of `os.fork` each call raises `ForkedProcessError`; closing is harmless."""
        keys = fill(tier, 3)

        def act() -> str:
            for call in calls(tier, keys):
                with pytest.raises(ForkedProcessError):
                    call()
            tier.close()
            return "refused"

        assert run_in_child(act) in {None, "refused"}
        assert values_at(tier, keys) == [value_of(number) for number in range(3)]
        assert tier.write([(b"new", [b"value"])]) == 1

    @pytest.mark.parametrize("key", [b"", b"k" * (MAX_KEY_BYTES + 1)])
    def test_keys_of_a_wrong_size_are_refused(self, tier: Tier, key: bytes) -> None:
        """Nothing is stored."""
        for call in (tier.read, tier.contains, tier.remove):
            with pytest.raises(InvalidTierError, match="key"):
                enter(call([key]))
        with pytest.raises(InvalidTierError, match="key"):
            tier.write([(b"good", [b"value"]), (key, [b"value"])])
        assert list(tier.keys()) == []

    @pytest.mark.parametrize("keys", ["text", b"bytes", ["text"], [1], [None], [bytearray(b"a")]])
    def test_keys_that_are_not_bytes_are_refused(self, tier: Tier, keys: Any) -> None:
        """One key in place of several is refused as well."""
        for call in (tier.read, tier.contains, tier.remove):
            with pytest.raises(InvalidArgumentError, match="key"):
                enter(call(keys))

    @pytest.mark.parametrize(
        "item", [b"key", (b"key",), (b"key", None), (b"key", ["text"]), ("key", [b"value"])]
    )
    def test_items_that_are_not_bytes_are_refused(self, tier: Tier, item: Any) -> None:
        """Nothing is stored."""
        with pytest.raises(InvalidArgumentError, match="key"):
            tier.write([(b"good", [b"value"]), item])
        assert list(tier.keys()) == []

    @pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
    def test_empty_values_are_refused(self, tier: Tier, parts: list[bytes]) -> None:
        """Nothing is stored."""
        with pytest.raises(InvalidTierError, match="no bytes"):
            tier.write([(b"good", [b"value"]), (b"key", parts)])
        assert list(tier.keys()) == []


def calls(tier: Tier, keys: Sequence[bytes]) -> list[Callable[[], object]]:
    """Return one call of each method that a closed tier refuses."""
    return [
        lambda: enter(tier.read(keys)),
        lambda: tier.write([(key, [b"value"]) for key in keys]),
        lambda: tier.contains(keys),
        lambda: tier.remove(keys),
        lambda: list(tier.keys()),
        tier.stats,
    ]


def enter(block: object) -> None:
    """Go into a ``with`` block, and out of it."""
    if isinstance(block, AbstractContextManager):
        with block:
            pass
