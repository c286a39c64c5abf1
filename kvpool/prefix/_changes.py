"""What happens to the segments of a prefix tree, told in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from kvpool.prefix._identity import Identity
from kvpool.prefix._segment import Segment

__all__ = ["Change", "Cleared", "Gone", "Held", "Journal", "Split"]


class Held(NamedTuple):
    """A segment is new, or shorter than before.

    Parameters
    ----------
    segment : Segment
        It changes later on: only a name of what is told here.
    before : Segment or Identity
        The segment before it; the identity of its tokens if there is none.
    tokens : bytes
        What the segment holds from now on.
    """

    segment: Segment
    before: Segment | Identity
    tokens: bytes


class Split(NamedTuple):
    """The first part of a segment is a segment of its own now.

    Parameters
    ----------
    head : Segment
        The first part.
    before : Segment or Identity
        The segment before it; the identity of its tokens if there is none.
    tokens : bytes
        What the first part holds.
    tail : Segment
        What was split: the rest from now on.
    """

    head: Segment
    before: Segment | Identity
    tokens: bytes
    tail: Segment


class Gone(NamedTuple):
    """A segment was removed.

    Parameters
    ----------
    segment : Segment
    """

    segment: Segment


class Cleared(NamedTuple):
    """All segments are gone."""


Change: TypeAlias = Held | Split | Gone | Cleared

Journal: TypeAlias = Callable[[Change], object]
"""Takes the changes of a tree, in order. It runs in the middle of a call: it only notes them."""
