"""`Session`: what a manager knows of one session."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import InvalidTtlError
from kvpool.manager._tiers import Opener
from kvpool.prefix import TOKEN_BYTES, Identity

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
    identity : Identity or None
        Of the tokens; None if the tokens of the session are not known.
    tokens : bytes
        Tokens that the session holds, as far as it is known.
    priority : int
        Sessions with a lower one are evicted for room before it.
    is_open : bool
        Whether it is between `open_session` and `close_session`. Then it is not evicted for room.
    opener : Opener or None
        The call that opens it and loads from tiers; None without tiers.
    closed_at : int
        When `close_session` kept it last, in nanoseconds since 1970; 0 if it never did.
    """

    entry: PoolEntry
    ttl: float
    number: int
    pins: int = 0
    identity: Identity | None = None
    tokens: bytes = b""
    priority: int = 0
    is_open: bool = False
    opener: Opener | None = None
    closed_at: int = 0

    @property
    def known_tokens(self) -> bytes:
        """The tokens that are known, without those that were dropped from the entry since."""
        if not isinstance(self.entry, KVCacheEntry):
            return b""
        return self.tokens[: self.entry.steady_count * TOKEN_BYTES]

    @property
    def held(self) -> tuple[Identity, bytes] | None:
        """The tokens that the session holds, and whose they are; None if that is not known."""
        tokens = self.known_tokens
        return (self.identity, tokens) if tokens and self.identity is not None else None

    def keep(self, token_count: int) -> None:
        """Keep the first tokens, which are known."""
        if isinstance(self.entry, KVCacheEntry):
            self.entry.drop(token_count)
        self.tokens = self.tokens[: token_count * TOKEN_BYTES]

    @property
    def is_evictable(self) -> bool:
        """Whether it may be evicted for room, unless a view of its entry is alive."""
        return not self.pins and not self.is_open

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
