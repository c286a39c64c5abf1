from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey

names = st.sampled_from(["", "1", "2", "a", "a/1", "/"])
keys = st.builds(CacheKey, names, st.integers(1, 2) | names)


@given(keys, keys)
def test_keys_are_equal_where_both_parts_are(one: CacheKey, other: CacheKey) -> None:
    same = (one.namespace, one.id) == (other.namespace, other.id)
    assert (one == other) is same
    assert len({one, other}) == (1 if same else 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CacheKey("a", 1), CacheKey("b", 1)),
        (CacheKey("a", 1), CacheKey("a", "1")),
        (CacheKey("a/b", "c"), CacheKey("a", "b/c")),
        (CacheKey("", "a"), CacheKey("a", "")),
    ],
)
def test_keys_that_look_alike_are_different(one: CacheKey, other: CacheKey) -> None:
    assert one != other
    assert {one: 1, other: 2}[one] == 1


def test_a_key_shows_namespace_and_id() -> None:
    assert str(CacheKey("chat", 42)) == "chat/42"
    assert str(CacheKey("chat", "x")) == "chat/x"


def test_a_key_does_not_change_and_travels() -> None:
    key = CacheKey("chat", 42)
    with pytest.raises(AttributeError):
        setattr(key, key._fields[0], "other")
    assert pickle.loads(pickle.dumps(key)) == key
    assert type(pickle.loads(pickle.dumps(key))) is CacheKey
