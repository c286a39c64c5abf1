from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError

names = st.sampled_from(["", "1", "2", "a", "a/1", "/"])
keys = st.builds(CacheKey, names, st.integers(1, 2) | names)
# Of few characters, so that two of them come close to each other.
texts = st.text("/\\-1a", max_size=5) | st.text()
any_keys = st.builds(CacheKey, texts, st.integers(-11, 11) | st.booleans() | texts)


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


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (CacheKey("chat", 42), "chat/42"),
        (CacheKey("chat", -1), "chat/-1"),
        (CacheKey("chat", "x"), "chat/x"),
        (CacheKey("chat", "2026/11/x"), "chat/2026/11/x"),
        (CacheKey("chat", "1a"), "chat/1a"),
        (CacheKey("chat", "42"), r"chat/\42"),
        (CacheKey("chat", "-1"), r"chat/\-1"),
        (CacheKey("chat", r"\42"), r"chat/\\42"),
        (CacheKey("chat", r"a\b"), r"chat/a\\b"),
        (CacheKey("chat/a", "b"), r"chat\/a/b"),
        (CacheKey("chat\\", "b"), r"chat\\/b"),
        (CacheKey("", ""), "/"),
    ],
)
def test_a_key_shows_namespace_and_id(key: CacheKey, text: str) -> None:
    assert str(key) == text


@given(any_keys, any_keys)
@settings(max_examples=500)
def test_keys_have_the_same_text_where_they_are_equal(one: CacheKey, other: CacheKey) -> None:
    assert (str(one) == str(other)) is (one == other)


@given(any_keys)
def test_the_text_of_a_key_tells_the_key(key: CacheKey) -> None:
    """Read as the documentation says, without a look at how it is written."""
    match = re.fullmatch(r"((?:[^\\/]|\\.)*)/(.*)", str(key), re.DOTALL)
    assert match is not None
    name: int | str = plain(match[2])
    if re.fullmatch(r"-?[0-9]+", match[2]):
        name = int(match[2])
    assert CacheKey(plain(match[1]), name) == key


def plain(text: str) -> str:
    """Drop the backslash in front of what has one."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


@given(any_keys)
def test_a_key_is_read_from_its_text(key: CacheKey) -> None:
    again = CacheKey.parse(str(key))
    assert again == key
    assert isinstance(again.id, str) == isinstance(key.id, str)


@pytest.mark.parametrize(
    "text", ["", "chat", "chat/-0", "chat/007", r"chat/\x", "\\", "c/" + "9" * 5000, 7]
)
def test_what_is_not_the_text_of_a_key(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the text of a key"):
        CacheKey.parse(text)


def test_a_key_does_not_change_and_travels() -> None:
    key = CacheKey("chat", 42)
    with pytest.raises(AttributeError):
        setattr(key, key._fields[0], "other")
    assert pickle.loads(pickle.dumps(key)) == key
    assert type(pickle.loads(pickle.dumps(key))) is CacheKey
