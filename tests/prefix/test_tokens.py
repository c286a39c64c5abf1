"""Token ids as bytes."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.errors import InvalidTokensError
from kvpool.prefix import TOKEN_BYTES, common_bytes, token_bytes

IDS = st.lists(st.integers(0, 2), max_size=40)


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2, -3, 2**63 - 1, -(2**63)],
        (5, 6),
        array("i", [1, 2]),
        np.array([3, 4], np.uint16),
        np.array([3, 4], np.uint64),
        np.arange(9)[::2],
        np.array([1, 2], ">i4"),
        [],
        np.array([], np.float32),
        range(4),
    ],
    ids=repr,
)
def test_ids_of_any_kind_become_the_same_bytes(tokens: Any) -> None:
    assert token_bytes(tokens) == array("q", [int(token) for token in tokens]).tobytes()


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (None, "None"),
        (7, "7"),
        ("ab", "ab"),
        ([1, "b"], "b"),
        ([1, 2.5], "2.5"),
        ([True, False], "True"),
        ([[1, 2]], r"\(1, 2\)"),
        ([[1], [1, 2]], "inhomogeneous"),
        ([2**63], "9223372036854775808"),
        ([1, -(2**70)], "1180591620717411303424"),
        (np.array([2**64 - 1], np.uint64), "18446744073709551615"),
        (np.array([1.0]), "1.0"),
    ],
)
def test_other_things_are_named(tokens: Any, named: str) -> None:
    with pytest.raises(InvalidTokensError, match=named):
        token_bytes(tokens)


@given(IDS, IDS, IDS)
def test_common_bytes_are_those_of_whole_tokens(
    before: list[int], one: list[int], other: list[int]
) -> None:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    start = len(before) * TOKEN_BYTES
    assert common_bytes(token_bytes(one), token_bytes(before + other), start) == count * TOKEN_BYTES
