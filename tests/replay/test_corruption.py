"""A replay must find what it is there to find: bytes that are not what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.replay import Replay, TraceRequest

Tokens = NDArray[Any]

LAYOUT = KVLayout(2, 2, 32, "float16")
FIRST = TraceRequest(0, 40, 5, (1, 2, 3, 4, 5))
OTHER = TraceRequest(1, 40, 5, (11, 12, 13, 14, 15))
NEXT = TraceRequest(2, 48, 5, (1, 2, 3, 4, 5, 6))


def flip_one_bit(entry: KVCacheEntry) -> None:
    entry.key(1, writeable=True).view(np.uint8)[0, 44, 17] ^= 1


def flip_one_bit_of_the_arena(entry: KVCacheEntry) -> None:
    geometry = LAYOUT.geometry(entry.max_context_length, entry.pool.granule)
    end = geometry.stripe_offsets(1)[-1] + entry.token_count * geometry.token_stride
    entry.pool.view(entry.block, np.uint8, entry.block.size)[end - 1] ^= 128


def swap_heads(entry: KVCacheEntry) -> None:
    view = entry.value(0, writeable=True)
    view[[0, 1]] = view[[1, 0]]


def swap_tokens(entry: KVCacheEntry) -> None:
    view = entry.key(0, writeable=True)
    view[1, [7, 8]] = view[1, [8, 7]]


def shift_tokens(entry: KVCacheEntry) -> None:
    view = entry.key(0, writeable=True)
    view[0, 1:] = view[0, :-1].copy()


def swap_layers(entry: KVCacheEntry) -> None:
    one, two = entry.key(0, writeable=True), entry.key(1, writeable=True)
    one[...], two[...] = two.copy(), one.copy()


def swap_keys_and_values(entry: KVCacheEntry) -> None:
    one, two = entry.key(0, writeable=True), entry.value(0, writeable=True)
    one[...], two[...] = two.copy(), one.copy()


def lose_the_last_token(entry: KVCacheEntry) -> None:
    entry.truncate(entry.token_count - 1)


def write_another_last_token(entry: KVCacheEntry) -> None:
    entry.truncate(entry.token_count - 1)
    zeros = np.zeros((2, 2, 1, 32), np.float16)
    entry.extend(zeros, zeros)


ALL = [
    f"{what} of layer {layer}, head {head}"
    for layer in (0, 1)
    for what in ("keys", "values")
    for head in (0, 1)
]
CORRUPTIONS: list[tuple[Callable[[KVCacheEntry], None], list[str]]] = [
    (flip_one_bit, ["keys of layer 1, head 0"]),
    (flip_one_bit_of_the_arena, ["values of layer 1, head 1"]),
    (swap_heads, ["values of layer 0, head 0", "values of layer 0, head 1"]),
    (swap_tokens, ["keys of layer 0, head 1"]),
    (shift_tokens, ["keys of layer 0, head 0"]),
    (swap_layers, [fault for fault in ALL if "keys" in fault]),
    (swap_keys_and_values, [fault for fault in ALL if "layer 0" in fault]),
    (lose_the_last_token, ALL),
    (write_another_last_token, ALL),
]
NAMES = [corrupt.__name__ for corrupt, _ in CORRUPTIONS]


def two_sessions(backend: str) -> tuple[Replay, KVCacheEntry, KVCacheEntry]:
    replay = Replay(LAYOUT, 1 << 20, backend, hash_block_tokens=8)
    replay.serve(FIRST)
    replay.serve(OTHER)
    first, other = (session.entry for session in replay.sessions())
    return replay, first, other


@pytest.mark.parametrize(("corrupt", "faults"), CORRUPTIONS, ids=NAMES)
def test_it_is_found_in_the_end(
    backend: str, corrupt: Callable[[KVCacheEntry], None], faults: list[str]
) -> None:
    replay, entry, _ = two_sessions(backend)
    with replay:
        corrupt(entry)
        replay.finish()
        tally = replay.report().tally
    assert tally.first_failures == [f"replay/0: {fault}" for fault in faults][:5]
    assert tally.checksum_failures == len(faults)


@pytest.mark.parametrize(("corrupt", "faults"), CORRUPTIONS, ids=NAMES)
def test_it_is_found_when_the_session_is_continued(
    corrupt: Callable[[KVCacheEntry], None], faults: list[str]
) -> None:
    replay, entry, _ = two_sessions("numpy")
    with replay:
        corrupt(entry)
        replay.serve(NEXT)
        tally = replay.report().tally
    assert tally.reused_tokens == 40
    assert tally.first_failures[: len(faults)] == [f"replay/0: {fault}" for fault in faults][:5]
    assert tally.checksum_failures >= len(faults)


def test_tokens_of_another_session_are_found(backend: str) -> None:
    replay, first, other = two_sessions(backend)
    with replay:
        one, two = first.data(), other.data()
        one[...], two[...] = two.copy(), one.copy()
        del one, two
        replay.finish()
        assert replay.report().tally.checksum_failures == 16


def test_it_is_found_at_once_if_what_is_written_changes_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extend = KVCacheEntry.extend

    def one_head_twice(entry: KVCacheEntry, keys: Tokens, values: Tokens) -> int:
        twice = keys.copy()
        twice[1, 1] = keys[1, 0]
        return extend(entry, twice, values)

    monkeypatch.setattr(KVCacheEntry, "extend", one_head_twice)
    with Replay(LAYOUT, 1 << 20, "numpy") as replay:
        replay.serve(FIRST)
        assert replay.report().tally.first_failures == ["replay/0: keys of layer 1, head 1"]


def test_nothing_is_found_where_nothing_is_wrong(backend: str) -> None:
    replay, _, _ = two_sessions(backend)
    with replay:
        replay.serve(NEXT)
        replay.finish()
        assert replay.report().tally.checksum_failures == 0
