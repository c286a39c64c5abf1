"""The sessions of a replay: their expected tokens, and which session a request continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.replay._content import Span
from kvpool.replay._request import TraceRequest

__all__ = ["PAGED_BLOCK_TOKENS", "ReplaySession", "ReplaySessions"]

PAGED_BLOCK_TOKENS = 16
"""Tokens per block of a paged cache in most servers; for comparison only."""


@dataclass(frozen=True, slots=True)
class ReplaySession:
    """A session and the tokens that it should hold.

    Attributes
    ----------
    key : CacheKey
    entry : KVCacheEntry
    spans : list of Span
        The tokens that the entry should hold.
    request : TraceRequest
        The one that was served last.
    """

    key: CacheKey
    entry: KVCacheEntry
    spans: list[Span]
    request: TraceRequest


class ReplaySessions:
    """The sessions that are in the pool.

    Parameters
    ----------
    hash_block_tokens : int or None
        Tokens of the blocks that a request names; None if it names none.

    Attributes
    ----------
    live_tokens, paged_tokens : int
        Tokens that all sessions hold; and those that blocks of `PAGED_BLOCK_TOKENS` for
        them have room for, as many for each session as it needs.
    """

    def __init__(self, hash_block_tokens: int | None) -> None:
        self.live_tokens = self.paged_tokens = 0
        self._hash_block_tokens = hash_block_tokens
        self._by_key: dict[CacheKey, ReplaySession] = {}
        # A block's id names all before it too, so the last ids of a prompt stand for all of it.
        self._by_last_block: dict[int, ReplaySession] = {}
        self._holders: Counter[int] = Counter()  # sessions that hold a block, for each id

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[ReplaySession]:
        return iter(list(self._by_key.values()))

    def put(self, session: ReplaySession) -> None:
        """Add a session that was served, or replace it."""
        self.forget((session.key,))
        self._by_key[session.key] = session
        self._count(session.request.tokens, 1)
        self._holders.update(session.request.hash_blocks)
        self._by_last_block.update(dict.fromkeys(self._last_blocks(session.request), session))

    def forget(self, keys: Iterable[CacheKey]) -> None:
        """Remove the sessions with these keys, if present."""
        for key in keys:
            session = self._by_key.pop(key, None)
            if session is None:
                continue
            self._count(session.request.tokens, -1)
            for block in session.request.hash_blocks:
                self._holders[block] -= 1
                if not self._holders[block]:
                    del self._holders[block]
            for block in self._last_blocks(session.request):
                if self._by_last_block.get(block) is session:
                    del self._by_last_block[block]

    def keep_only(self, keys: Collection[CacheKey]) -> None:
        """Remove all sessions except those with these keys."""
        self.forget(self._by_key.keys() - set(keys))

    def continued_by(self, request: TraceRequest) -> tuple[ReplaySession, int] | None:
        """Find the session that a request continues, and the number of tokens they share.

        A request continues a session if the session's prompt is where its own begins, but
        for the last block if that is not full. A request that only begins like a session, as
        all do that have a system prompt in common, is another session: continuing there would
        destroy what the other one holds.

        Returns
        -------
        tuple of ReplaySession and int, or None
            The session with the longest such prompt.
        """
        size = self._hash_block_tokens
        if size is None:
            return None
        blocks = request.hash_blocks
        for depth in range(len(blocks), 0, -1):
            session = self._by_last_block.get(blocks[depth - 1])
            if session is not None and session.request.hash_blocks[:depth] == blocks[:depth]:
                held = session.request.prompt_tokens
                return session, min(depth * size, held, request.prompt_tokens)
        return None

    def resident_prefix(self, request: TraceRequest) -> int:
        """Return how many first tokens of the prompt a session in the pool holds."""
        size = self._hash_block_tokens or 0
        for depth in range(len(request.hash_blocks), 0, -1):
            if request.hash_blocks[depth - 1] in self._holders:
                return min(depth * size, request.prompt_tokens)
        return 0

    def _count(self, tokens: int, sign: int) -> None:
        self.live_tokens += sign * tokens
        self.paged_tokens += sign * -(-tokens // PAGED_BLOCK_TOKENS) * PAGED_BLOCK_TOKENS

    def _last_blocks(self, request: TraceRequest) -> tuple[int, ...]:
        """Return the ids of the last full block and of the block behind it, if there is one."""
        full = request.prompt_tokens // self._hash_block_tokens if self._hash_block_tokens else 0
        return request.hash_blocks[max(full - 1, 0) :]
