"""`TieredReuse`: sessions that begin with what the pool holds and what its tiers have."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryRemovedError, PoolClosedError
from kvpool.manager._opening import Opening
from kvpool.manager._reuse import NAMELESS, OpenedSession, OpenOptions, Reuse
from kvpool.manager._tiers import Beyond, Kept, Opener
from kvpool.manager._turns import Turns, turn
from kvpool.manager._waiting import check_timeout
from kvpool.prefix import Identity, TokenIds, token_bytes

__all__ = ["TieredReuse"]

_log = logging.getLogger(__name__)

_LOADS = 2  # times that an open loads at most, if other calls were loading the same


class TieredReuse:
    """Opens and closes sessions in turns of their own, and asks the tiers between these turns.

    All methods may be called by any thread. Without tiers each of them is one turn.

    Parameters
    ----------
    reuse : Reuse
        Of what the pool holds.
    turns : Turns
    beyond : Beyond or None
        The tiers.
    """

    def __init__(self, reuse: Reuse, turns: Turns, beyond: Beyond | None) -> None:
        self._reuse = reuse
        self._turns = turns
        self._beyond = beyond

    # -- opening -------------------------------------------------------------------------

    def open(
        self,
        tokens: TokenIds,
        key: CacheKey | None,
        options: OpenOptions,
        opener: Opener,
        timeout: float | None,
    ) -> OpenedSession:
        """Open a session for a call that notes its end; see `KVCacheManager.open_session`."""
        if self._beyond is None:
            return self._open(tokens, key, options, timeout=timeout)
        ids = np.frombuffer(token_bytes(tokens), np.int64)
        options = options._replace(opener=opener)
        opened = self._open(ids, key, options, timeout=timeout)
        return self._load(opened, ids, key, options, self._beyond)

    def begin(
        self,
        tokens: TokenIds,
        key: CacheKey | None,
        options: OpenOptions,
        opening: Opening,
        timeout: float | None,
    ) -> None:
        """Open a session, and load what it lacks in another thread.

        See `KVCacheManager.begin_session`.
        """
        ids = np.frombuffer(token_bytes(tokens), np.int64)
        options = options._replace(opener=opening.opener)
        opened = self._open(ids, key, options, timeout=timeout)
        opening.held = opened.entry.token_count
        beyond, count = self._beyond, len(ids)
        limit = max(count - options.min_left, 0)
        if beyond is not None and beyond.could_load(count, opened.entry.token_count, limit):
            load = partial(self._load, opened, ids, key, options, beyond, opening.is_wanted)
            thread = threading.Thread(
                target=opening.run, args=(load,), name="kvpool loads", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system has no thread: what could be loaded is computed
                _log.exception("no thread can be started to load from tiers")
            else:
                return
        opening.opened = opened
        opening.finish()

    @turn
    def _open(
        self,
        tokens: TokenIds,
        key: CacheKey | None,
        options: OpenOptions,
        *,
        timeout: float | None = None,
    ) -> OpenedSession:
        if timeout is not None:
            check_timeout(timeout)
        return self._reuse.open(tokens, key, options)

    def _load(
        self,
        opened: OpenedSession,
        tokens: NDArray[np.int64],
        key: CacheKey | None,
        options: OpenOptions,
        beyond: Beyond,
        is_wanted: Callable[[], bool] | None = None,
    ) -> OpenedSession:
        """Load what the tiers have of the tokens that a session lacks, without the lock."""
        identity = self._reuse.identity(options)
        data, limit = tokens.tobytes(), max(len(tokens) - options.min_left, 0)
        for _ in range(_LOADS):
            if not beyond.load(identity, data, opened.entry, limit, is_wanted):
                break
            try:
                opened = self._open_again(opened, tokens, key, options) or opened
            except EntryRemovedError:
                break
        try:
            return self._finish_load(opened, data)
        except (EntryRemovedError, PoolClosedError):  # by another thread: the next call tells
            return opened

    @turn
    def _open_again(
        self,
        opened: OpenedSession,
        tokens: TokenIds,
        key: CacheKey | None,
        options: OpenOptions,
    ) -> OpenedSession | None:
        return self._reuse.open_again(opened, tokens, key, options)

    @turn
    def _finish_load(self, opened: OpenedSession, tokens: bytes) -> OpenedSession:
        return self._reuse.finish_load(opened, tokens)

    # -- closing -------------------------------------------------------------------------

    def close(self, entry: KVCacheEntry, tokens: TokenIds) -> None:
        """Keep the tokens of a session; see `KVCacheManager.close_session`."""
        key, kept = self._close(entry, tokens)
        if kept is not None and self._beyond is not None:
            self._beyond.keep(kept)
            if key.namespace != NAMELESS:
                self._beyond.keep_name(kept[0], key, kept[1])

    @turn
    def _close(self, entry: KVCacheEntry, tokens: TokenIds) -> tuple[CacheKey, Kept | None]:
        key = self._reuse.close(entry, tokens)
        self._turns.waiters.wake()
        return key, None if self._beyond is None else self._reuse.kept(key)

    # -- finding -------------------------------------------------------------------------

    def find_tokens(self, key: CacheKey, options: OpenOptions) -> NDArray[np.int64] | None:
        """Return the tokens of a closed session; see `KVCacheManager.find_session_tokens`."""
        identity, held, closed_at = self._known_session(key, options)
        stored = None if self._beyond is None else self._beyond.session(identity, key)
        if stored is not None and (held is None or stored.when >= closed_at):
            return stored.tokens
        return None if held is None else np.frombuffer(held, np.int64)

    @turn
    def _known_session(
        self, key: CacheKey, options: OpenOptions
    ) -> tuple[Identity, bytes | None, int]:
        return self._reuse.known_session(key, options)
