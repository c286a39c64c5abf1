"""`Session`: what a manager knows of one session."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from kvpool.entry import PoolEntry
from kvpool.errors import InvalidTtlError

__all__ = ["Session", "check_ttl"]


@dataclass(slots=True)
class Session:
    """A session that has an entry.

    Attributes
    ----------
    entry : PoolEntry
    ttl : float
        Seconds for which it stays without being used; infinite if it stays forever.
    number : int
        1 for the first entry that its manager made, and so on.
    pins : int
        How often it was pinned more than unpinned; while this is not 0, it is not evicted.
    """

    entry: PoolEntry
    ttl: float
    number: int
    pins: int = 0

    @property
    def deadline(self) -> float:
        """Seconds of the clock at which the session expires unless it is used before."""
        return self.entry.last_accessed + self.ttl


def check_ttl(ttl: Any, what: str = "a time to live") -> float:
    """Return a time to live in seconds, infinite for None.

    Raises
    ------
    InvalidTtlError
        It is not a number above 0.
    """
    if ttl is None:
        return math.inf
    if not isinstance(ttl, bool) and isinstance(ttl, Real):
        with contextlib.suppress(OverflowError):  # an int that no float can hold
            seconds = float(ttl)
            if seconds > 0:
                return seconds
    raise InvalidTtlError(f"{what} must be above 0 seconds, not {ttl!r}")
