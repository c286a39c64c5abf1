"""Powers of two: checks and rounding."""

from __future__ import annotations

from kvpool.errors import InvalidAlignmentError

__all__ = ["align_up", "check_alignment"]


def check_alignment(alignment: int) -> int:
    """Return `alignment` if it is a power of two.

    Raises
    ------
    InvalidAlignmentError
        It is not.
    """
    if alignment < 1 or alignment & (alignment - 1):
        raise InvalidAlignmentError(f"alignment {alignment} is not a power of two")
    return alignment


def align_up(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment`, a power of two, at or after `offset`."""
    return (offset + alignment - 1) & -alignment
