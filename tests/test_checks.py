from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool._checks import align_up, check_alignment
from kvpool.errors import InvalidAlignmentError

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
