"""`ChatStore`: the tiers of a chat, which keep all tokens of a session, not whole chunks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.prefix import TOKEN_BYTES, Identity
from kvpool.tiers import Level, Loaded, TierEvent, TierStore, TokenSink

__all__ = ["ChatStore"]


class ChatStore(TierStore):
    """A store of tiers for sessions that go on in a later process as if there had been one.

    The whole chunks are those of any store, so that a server with the same tiers has them too.
    Tokens behind the last whole chunk are chunks of one token each. A model that computed
    these again, in one step instead of one by one, would round other bits.

    Parameters
    ----------
    levels : sequence of Level

    Attributes
    ----------
    loaded_tokens : int
        Tokens that were loaded so far.

    Notes
    -----
    A manager names a session with the tokens that the pool holds, which lack the last one, and
    without its messages. So `put_session` leaves the names of the manager out: `keep` writes all.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        super().__init__(levels)
        self._tails = TierStore(levels, chunk_tokens=1)
        self.loaded_tokens = 0

    def keep(self, identity: Identity, key: CacheKey, tokens: bytes, note: bytes) -> None:
        """Have all tokens of a session written behind under its key, with a note."""
        super().put_session(identity, key, tokens, note)

    def put_session(
        self, identity: Identity, key: CacheKey, tokens: bytes, note: bytes = b""
    ) -> int:
        """Leave out what a manager would write."""
        del identity, key, tokens, note
        return 0

    def put(
        self,
        identity: Identity,
        tokens: bytes,
        keys: NDArray[Any],
        values: NDArray[Any],
        *,
        hold: bool = False,
        start: int = 0,
    ) -> int:
        """Have the chunks of a sequence written behind, and the tokens behind the last whole one.

        An eviction shortens a session many times, and only closing the session, where `start` is
        0, writes the tokens behind the last whole chunk.
        """
        queued = super().put(identity, tokens, keys, values, hold=hold, start=start)
        held = min(len(tokens) // TOKEN_BYTES, keys.shape[2])
        whole = held - held % self.chunk_tokens
        if start or held == whole:
            return queued
        rest = tokens[: held * TOKEN_BYTES]
        return queued + self._tails.put(identity, rest, keys, values, hold=hold, start=whole)

    def load(
        self,
        identity: Identity,
        tokens: bytes,
        sink: TokenSink,
        limit: int | None = None,
        on_event: Callable[[TierEvent], object] | None = None,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Loaded:
        """Load whole chunks of a sequence, and then the tokens behind the last one."""
        whole = super().load(identity, tokens, sink, limit, on_event, is_wanted)
        self.loaded_tokens += whole.tokens
        if whole.waited:
            return whole
        held = sink.token_count
        most = held - held % self.chunk_tokens + self.chunk_tokens - 1
        rest = self._tails.load(
            identity, tokens[: most * TOKEN_BYTES], sink, limit, on_event, is_wanted
        )
        self.loaded_tokens += rest.tokens
        return Loaded(
            whole.tokens + rest.tokens,
            whole.nbytes + rest.nbytes,
            whole.seconds + rest.seconds,
            waited=False,
            reason=whole.reason,
        )
