"""`append_with`: the caller writes the tokens itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvpool.entry._entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryRemovedError,
    InvalidTokensError,
    LayerIndexError,
    LayerMismatchError,
)
from kvpool.layout import EntryGeometry
from kvpool.manager import KVCacheManager
from kvpool.pool import Bytes
from tests.support.sessions import LAYOUT, Tokens, key_of, random_tokens, same_bits


class Writer:
    """Writes tokens of one layer; remembers what it was called with."""

    def __init__(self, layer: int, tokens: Tokens) -> None:
        self.layer = layer
        self.tokens = tokens
        self.calls: list[tuple[Bytes, EntryGeometry, int]] = []

    @property
    def count(self) -> int:
        return int(self.tokens.keys.shape[2])

    def __call__(self, root: Bytes, geometry: EntryGeometry, start: int) -> None:
        self.calls.append((root, geometry, start))
        target = geometry.layer_view(root, self.layer, start, self.count)
        target[0], target[1] = self.tokens.layer(self.layer)


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(1 << 20, backend, LAYOUT) as manager:
        yield manager
        manager.check_integrity()


@pytest.fixture
def entry(manager: KVCacheManager) -> KVCacheEntry:
    return manager.create_cache_entry(key_of(0), 8)


def test_tokens_are_where_append_would_have_put_them(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    other = manager.create_cache_entry(key_of(1), 8)
    for count in (3, 1, 4):
        tokens = random_tokens(LAYOUT, count)
        for layer in range(2):
            writer = Writer(layer, tokens)
            assert entry.append_with(layer, count, writer) == other.append(
                layer, *tokens.layer(layer)
            )
            assert writer.calls[0][2] == entry.token_count - (count if layer else 0)
    assert entry.token_count == 8
    assert same_bits(entry.keys(), other.keys())
    assert same_bits(entry.values(), other.values())


def test_the_bytes_are_the_same_array_until_the_entry_moves(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    lease = entry.data()
    writers = [Writer(layer, random_tokens(LAYOUT, 1)) for layer in (0, 1, 0)]
    for writer in writers[:2]:
        entry.append_with(writer.layer, 1, writer)
    assert writers[0].calls[0][0] is writers[1].calls[0][0] is lease
    manager.get_or_create_cache(key_of(0), 16)
    entry.append_with(0, 1, writers[2])
    root, geometry, start = writers[2].calls[0]
    assert root is not lease
    assert (geometry.max_context_length, start) == (16, 1)


@pytest.mark.parametrize(
    ("layer", "count", "error"),
    [
        (0, 0, InvalidTokensError),
        (0, -1, InvalidTokensError),
        (2, 1, LayerIndexError),
        (0, 2, LayerMismatchError),
        (1, 2, LayerMismatchError),
        (1, 9, LayerMismatchError),
    ],
)
def test_what_must_not_come_is_not_written(
    entry: KVCacheEntry, layer: int, count: int, error: type[Exception]
) -> None:
    entry.append(0, *random_tokens(LAYOUT, 3).layer(0))
    writer = Writer(0, random_tokens(LAYOUT, max(count, 1)))
    with pytest.raises(error):
        entry.append_with(layer, count, writer)
    assert writer.calls == []
    assert entry.key(0).shape[1] == 3


def test_more_than_there_is_room_for_is_not_written(entry: KVCacheEntry) -> None:
    writer = Writer(0, random_tokens(LAYOUT, 9))
    with pytest.raises(ContextOverflowError, match="holds 0 tokens, 9 more"):
        entry.append_with(0, 9, writer)
    assert writer.calls == []


def test_tokens_that_were_not_written_do_not_count(entry: KVCacheEntry) -> None:
    entry.append(0, *random_tokens(LAYOUT, 3).layer(0))

    def fail(*_where: object) -> None:
        raise RuntimeError("torch has no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        entry.append_with(1, 3, fail)
    assert entry.key(1).shape[1] == 0
    assert entry.append(1, *random_tokens(LAYOUT, 3).layer(1)) == 3


def test_an_entry_that_has_gone_is_not_written(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    manager.remove_cache_entry(key_of(0))
    writer = Writer(0, random_tokens(LAYOUT, 1))
    with pytest.raises(EntryRemovedError):
        entry.append_with(0, 1, writer)
    assert writer.calls == []


def test_it_is_a_use(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    other = manager.create_cache_entry(key_of(1), 8)
    before = other.last_use
    entry.append_with(0, 1, Writer(0, random_tokens(LAYOUT, 1)))
    assert entry.last_use > before
