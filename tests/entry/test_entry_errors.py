"""What an entry refuses, and that nothing has changed then: no byte, no count, no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.entry._entry import KVCacheEntry, PoolEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryError,
    EntryRemovedError,
    InvalidLayoutError,
    InvalidTokensError,
    LayerIndexError,
    LayerMismatchError,
    PoolClosedError,
    PoolExhaustedError,
)
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, random_tokens

Call = Callable[[KVCacheEntry], object]


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(1 << 16, backend) as pool:
        yield pool


@pytest.fixture
def entry(pool: MemoryPool) -> KVCacheEntry:
    """An entry with three of eight tokens."""
    entry = KVCacheEntry.create(pool, LAYOUT, 8, "chat/42")
    entry.extend(*random_tokens(LAYOUT, 3))
    return entry


def content(entry: KVCacheEntry) -> tuple[object, ...]:
    shapes = [entry.key(layer).shape for layer in range(LAYOUT.layers)]
    return entry.token_count, shapes, entry.data().tobytes(), entry.block


def check_refused(entry: KVCacheEntry, call: Call, error: type[Exception], text: str) -> None:
    before = content(entry)
    used = entry.last_accessed, entry.last_use
    with pytest.raises(error, match=text) as caught:
        call(entry)
    assert "chat/42" in str(caught.value)
    assert isinstance(caught.value, EntryError)
    assert (entry.last_accessed, entry.last_use) == used
    assert content(entry) == before


def array(*shape: int, dtype: Any = "float32") -> Any:
    return np.ones(shape, dtype)


GOOD = array(3, 2, 5)

BAD_ARRAYS = {
    "another dtype": (array(3, 2, 5, dtype="float64"), "are float64, the layout is float32"),
    "a narrower dtype": (array(3, 2, 5, dtype="float16"), "are float16, the layout is float32"),
    "other byte order": (array(3, 2, 5, dtype=">f4"), "are >f4, the layout is float32"),
    "a list of numbers": ([[[1.0] * 5] * 2] * 3, "are float64"),
    "too few heads": (array(2, 2, 5), r"shape \(2, 2, 5\), not \(3, tokens, 5\)"),
    "another head_dim": (array(3, 2, 4), r"shape \(3, 2, 4\)"),
    "tokens before heads": (array(2, 3, 5), r"shape \(2, 3, 5\)"),
    "too few dimensions": (array(5), r"shape \(5,\)"),
    "no dimension": (array(), r"shape \(\)"),
    "a batch dimension": (array(1, 3, 2, 5), r"shape \(1, 3, 2, 5\)"),
    "no tokens": (array(3, 0, 5), "have no tokens"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize("what", ["keys", "values"])
def test_wrong_tokens(entry: KVCacheEntry, name: str, what: str) -> None:
    bad, text = BAD_ARRAYS[name]
    pair = (bad, GOOD) if what == "keys" else (GOOD, bad)
    check_refused(entry, lambda e: e.append(0, *pair), InvalidTokensError, f"^{what} .*{text}")


@pytest.mark.parametrize(
    ("keys", "values", "text"),
    [
        (array(2, 3, 4, 5), array(2, 3, 3, 5), "gets 4 keys and 3 values"),
        (array(2, 3, 5), array(2, 3, 2, 5), "gets 1 keys and 2 values"),
        (array(3, 2, 5), array(3, 2, 5), r"shape \(3, 2, 5\), not \(2, 3, tokens, 5\)"),
        (array(2, 3, 0, 5), array(2, 3, 0, 5), "keys .* have no tokens"),
        (array(2, 3, 1, 5), array(2, 3, 1, 5, dtype="int8"), "values .* are int8"),
    ],
)
def test_wrong_tokens_for_all_layers(
    entry: KVCacheEntry, keys: Any, values: Any, text: str
) -> None:
    check_refused(entry, lambda e: e.extend(keys, values), InvalidTokensError, text)


@pytest.mark.parametrize("layer", [2, -1, 100])
def test_no_such_layer(entry: KVCacheEntry, layer: int) -> None:
    calls: list[Call] = [
        lambda e: e.append(layer, GOOD, GOOD),
        lambda e: e.key(layer),
        lambda e: e.value(layer, writeable=True),
    ]
    for call in calls:
        check_refused(entry, call, LayerIndexError, f"no layer {layer}: it has 2")


def test_past_the_context_length(entry: KVCacheEntry) -> None:
    text = "holds 3 tokens, 6 more would exceed its max_context_length of 8"
    tokens = random_tokens(LAYOUT, 6)
    check_refused(entry, lambda e: e.append(1, *tokens.layer(1)), ContextOverflowError, text)
    check_refused(entry, lambda e: e.extend(*tokens), ContextOverflowError, text)
    entry.extend(*random_tokens(LAYOUT, 5))
    text = "holds 8 tokens, 1 more"
    check_refused(entry, lambda e: e.append(0, *[array(3, 5)] * 2), ContextOverflowError, text)


def test_counts_that_disagree_between_layers(entry: KVCacheEntry) -> None:
    entry.append(1, GOOD, GOOD)
    wrong: list[tuple[Call, str]] = [
        (lambda e: e.append(1, GOOD, GOOD), "layer 1 .* already holds 5 .* layer 0 still 3"),
        (lambda e: e.append(0, *[array(3, 1, 5)] * 2), "layer 0 .* appends 1 .* layer 1 .* 2"),
        (lambda e: e.extend(*[array(2, 3, 2, 5)] * 2), "layer 1 .* holds 5 tokens, others 3"),
    ]
    for call, text in wrong:
        check_refused(entry, call, LayerMismatchError, text)
    assert entry.append(0, GOOD, GOOD) == entry.token_count == 5


@pytest.mark.parametrize("count", [-1, 4, 1.0, 2.5, "2", None])
def test_truncating_to_what_is_not_there(entry: KVCacheEntry, count: Any) -> None:
    text = f"to {count!r} tokens: it holds 3$"
    check_refused(entry, lambda e: e.truncate(count), InvalidTokensError, text)
    entry.append(0, GOOD, GOOD)
    check_refused(entry, lambda e: e.truncate(count), InvalidTokensError, text)


CALLS: dict[str, Call] = {
    "append": lambda e: e.append(0, GOOD, GOOD),
    "extend": lambda e: e.extend(*[array(2, 3, 2, 5)] * 2),
    "truncate": lambda e: e.truncate(1),
    "key": lambda e: e.key(0),
    "value": lambda e: e.value(0),
    "keys": lambda e: e.keys(),
    "values": lambda e: e.values(),
    "data": lambda e: e.data(),
    "relocate": lambda e: e.relocate(e.pool.allocate(4096), LAYOUT.geometry(8)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_removed_entry_serves_nothing(entry: KVCacheEntry, name: str) -> None:
    entry.pool.deallocate(entry.block)
    successor = KVCacheEntry.create(entry.pool, LAYOUT, 8, "another")
    assert successor.block.offset == entry.block.offset
    successor.extend(*random_tokens(LAYOUT, 8, 1))
    before, used = content(successor), (entry.last_accessed, entry.last_use)
    with pytest.raises(EntryRemovedError, match="session 'chat/42' was removed or evicted"):
        CALLS[name](entry)
    assert (entry.last_accessed, entry.last_use) == used
    assert content(successor) == before


@pytest.mark.parametrize("name", CALLS)
def test_an_entry_of_a_closed_pool_serves_nothing(entry: KVCacheEntry, name: str) -> None:
    entry.pool.close()
    with pytest.raises(PoolClosedError):
        CALLS[name](entry)


def test_a_raw_entry_that_was_removed_serves_nothing(pool: MemoryPool) -> None:
    entry = PoolEntry(pool, pool.allocate(100), "raw/1")
    assert entry.data().shape == (100,)
    pool.deallocate(entry.block)
    used = entry.last_accessed, entry.last_use
    with pytest.raises(EntryRemovedError, match="'raw/1'"):
        entry.data()
    assert (entry.last_accessed, entry.last_use) == used


def test_an_entry_that_cannot_be_made(pool: MemoryPool) -> None:
    before = pool.stats()
    with pytest.raises(PoolExhaustedError, match=f"largest free range has {pool.capacity}"):
        KVCacheEntry.create(pool, LAYOUT, 1 << 20, "s")
    with pytest.raises(InvalidLayoutError, match="max_context_length must be at least 1, not 0"):
        KVCacheEntry.create(pool, LAYOUT, 0, "s")
    assert pool.stats() == before
