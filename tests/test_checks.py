from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool._checks import align_up, byte_count, check_alignment, check_flag, whole_number
from kvpool.errors import InvalidAlignmentError, InvalidArgumentError, InvalidSizeError

powers_of_two = st.integers(0, 70).map(lambda exponent: 1 << exponent)


@given(powers_of_two)
def test_a_power_of_two_is_returned(alignment: int) -> None:
    assert check_alignment(alignment) == alignment


@given(st.integers().filter(lambda value: value < 1 or value.bit_count() != 1))
def test_anything_else_is_refused_by_its_value(alignment: int) -> None:
    with pytest.raises(InvalidAlignmentError, match=f"^alignment {alignment} is not"):
        check_alignment(alignment)


@given(st.integers(0, 1 << 70), powers_of_two)
def test_align_up_is_the_first_multiple_at_or_after(offset: int, alignment: int) -> None:
    aligned = align_up(offset, alignment)
    assert aligned % alignment == 0
    assert offset <= aligned < offset + alignment


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_a_whole_number_becomes_an_int(value: Any) -> None:
    number = whole_number("size", value, InvalidSizeError, least=7, most=7)
    assert (number, type(number)) == (7, int)


@pytest.mark.parametrize(
    "value",
    [True, False, np.True_, 7.0, float("nan"), np.float64(7), "7", b"7", None, [7]],
    ids=repr,
)
def test_what_is_not_a_whole_number_is_refused(value: Any) -> None:
    text = re.escape(f"size must be a whole number, not {value!r}")
    with pytest.raises(InvalidSizeError, match=text):
        byte_count("size", value)
    with pytest.raises(InvalidAlignmentError, match="alignment must be a whole number"):
        check_alignment(value)


def test_a_whole_number_has_its_limits() -> None:
    with pytest.raises(InvalidSizeError, match="size must be at least 1, not 0"):
        byte_count("size", 0, least=1)
    with pytest.raises(InvalidSizeError, match="size must be at most 9, not 10"):
        byte_count("size", 10, most=9)


@pytest.mark.parametrize("value", [None, 1, 0, "no", []])
def test_a_flag_is_true_or_false(value: Any) -> None:
    check_flag("secure", np.False_)
    check_flag("secure", value=True)
    with pytest.raises(
        InvalidArgumentError, match=re.escape(f"secure must be True or False, not {value!r}")
    ):
        check_flag("secure", value)
