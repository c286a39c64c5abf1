"""Canonical JSON: what msgspec writes is what RFC 8785 says, or is left to the library."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from kvpool.receipts.canonical import canonical, is_canonical
from kvpool.receipts.errors import InvalidReceiptError

# Where msgspec and RFC 8785 part: whole numbers, and where scientific notation begins.
edges = [
    0.0,
    -0.0,
    1.0,
    1e-5,
    9.999999999999999e-06,
    1e-6,
    1e-7,
    1e15,
    1e16,
    1e17,
    1e20,
    1e21,
    1e22,
]
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(edges)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(floats)
def test_number_is_written_as_the_library_writes_it(number: float) -> None:
    assert canonical({"n": number}, [number]) == rfc8785.dumps({"n": number})


@given(st.integers(-(2**53) + 1, 2**53 - 1), texts)
def test_int_and_text_are_written_as_the_library_writes_them(number: int, text: str) -> None:
    value: Any = {"z": number, "a": text, "m": {"y": None, "b": [True, text]}}
    assert canonical(value) == rfc8785.dumps(value)


# A whole number beyond 2**53 - 1 has no exact place in JSON, so it is never read as canonical.
exact = floats.filter(lambda number: abs(number) < 2**53 or not number.is_integer())
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | exact | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_canonical_bytes_are_known(value: Any) -> None:
    raw = rfc8785.dumps(value)
    assert is_canonical(raw)
    spaced = json.dumps(value, indent=1, ensure_ascii=False).encode()
    assert is_canonical(spaced) == (spaced == raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a": 1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":9007199254740992}',
        b'{"a":1}\n',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800x"}',
        b"",
        b"nan",
        b"[" * 200_000,
    ],
)
def test_other_bytes_are_not(raw: bytes) -> None:
    assert not is_canonical(raw)


@given(st.binary())
def test_any_bytes_are_looked_at_without_an_error(raw: bytes) -> None:
    assert is_canonical(raw) in {True, False}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_number_without_a_place_in_json_is_refused(number: float) -> None:
    with pytest.raises(InvalidReceiptError, match="not representable"):
        canonical({"n": number}, [number])
