"""`KVCacheEntry.extend`: the next tokens of all layers."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    InvalidTokensError,
)
from kvpool.pool import MemoryPool
from tests.support.entry_calls import array, check_refused
from tests.support.sessions import LAYOUT, random_tokens, same_bits


def test_extending_is_appending_to_every_layer(pool: MemoryPool) -> None:
    one, other = (KVCacheEntry.create(pool, LAYOUT, 16, "s") for _ in range(2))
    for count in (4, 1, 7):
        tokens = random_tokens(LAYOUT, count)
        total = one.extend(*tokens)
        for layer in range(2):
            assert other.append(layer, *tokens.layer(layer)) == total
    assert one.token_count == other.token_count == 12
    assert same_bits(one.data(), other.data())


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
    started: KVCacheEntry, keys: Any, values: Any, text: str
) -> None:
    check_refused(started, lambda e: e.extend(keys, values), InvalidTokensError, text)
