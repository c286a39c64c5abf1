"""Every call of an entry refuses bad arguments with an error, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidTokensError
from kvpool.pool import MemoryPool
from tests.support.bad_arguments import (
    BELOW_ZERO,
    NOT_WHOLE,
    TOO_MUCH,
    WRONG_OBJECTS,
    Values,
    cases,
    check_all_refused,
    pool_state,
    without,
)
from tests.support.entry_calls import GOOD, content
from tests.support.sessions import LAYOUT

Act = Callable[[KVCacheEntry, Any], object]

NOT_A_LAYER = (*NOT_WHOLE, *BELOW_ZERO, *TOO_MUCH, LAYOUT.layers)
FLAGS = (True, np.True_)
NOT_A_COUNT = (*NOT_WHOLE, *BELOW_ZERO, 0)


def write(entry: KVCacheEntry, layer: Any, count: Any) -> None:
    with entry.writing(layer, count):
        pass


TABLE: dict[str, tuple[Act, tuple[Any, ...]]] = {
    "held": (KVCacheEntry.held, NOT_A_LAYER),
    "key": (KVCacheEntry.key, NOT_A_LAYER),
    "value": (KVCacheEntry.value, NOT_A_LAYER),
    "key, writeable": (lambda e, v: e.key(0, writeable=v), without(WRONG_OBJECTS, *FLAGS)),
    "append, layer": (lambda e, v: e.append(v, GOOD, GOOD), NOT_A_LAYER),
    "writing, layer": (lambda e, v: write(e, v, 1), NOT_A_LAYER),
    "writing, count": (lambda e, v: write(e, 0, v), (*NOT_A_COUNT, *TOO_MUCH)),
    "stage": (KVCacheEntry.stage, (*NOT_A_COUNT, *TOO_MUCH)),
    "extend_staged": (KVCacheEntry.extend_staged, WRONG_OBJECTS),
    "truncate": (KVCacheEntry.truncate, (*NOT_WHOLE, *BELOW_ZERO, *TOO_MUCH)),
}
CREATE: dict[str, tuple[Callable[[MemoryPool, Any], object], tuple[Any, ...]]] = {
    "pool": (lambda _p, v: KVCacheEntry.create(v, LAYOUT, 8, "a"), WRONG_OBJECTS),
    "layout": (lambda p, v: KVCacheEntry.create(p, v, 8, "a"), WRONG_OBJECTS),
    "length": (lambda p, v: KVCacheEntry.create(p, LAYOUT, v, "a"), NOT_A_COUNT),
    "clock": (lambda p, v: KVCacheEntry.create(p, LAYOUT, 8, "a", v), without(WRONG_OBJECTS, type)),
}


@pytest.mark.parametrize(("act", "values"), cases(TABLE))
def test_a_bad_argument_is_named(started: KVCacheEntry, act: Act, values: Values) -> None:
    before = content(started)
    used = started.last_accessed, started.last_use
    check_all_refused(lambda v: act(started, v), values, lambda: pool_state(started.pool))
    assert (started.last_accessed, started.last_use) == used
    assert content(started) == before


@pytest.mark.parametrize("value", [*WRONG_OBJECTS, [[1], [1, 2]], [10**400]], ids=repr)
def test_tokens_that_are_not_arrays(started: KVCacheEntry, value: Any) -> None:
    before = content(started)
    for keys, values in ((value, GOOD), (GOOD, value)):
        with pytest.raises(InvalidTokensError, match="chat/42"):
            started.append(0, keys, values)
        with pytest.raises(InvalidTokensError, match="chat/42"):
            started.extend(keys, values)
    assert content(started) == before
    started.pool.check_integrity()


@pytest.mark.parametrize(("act", "values"), cases(CREATE))
def test_an_entry_that_cannot_be_made(
    pool: MemoryPool, act: Callable[[MemoryPool, Any], object], values: Values
) -> None:
    check_all_refused(lambda v: act(pool, v), values, lambda: pool_state(pool))


def test_whole_numbers_of_numpy_are_accepted(started: KVCacheEntry) -> None:
    number: Any = np.int64
    assert started.held(number(0)) == started.token_count
    write(started, number(0), number(1))
    assert type(started.held(0)) is int
    started.truncate(number(1))
    assert started.token_count == 1
    assert type(started.token_count) is int
