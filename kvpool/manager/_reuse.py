"""`Reuse`: sessions that begin with tokens which the pool holds already."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from kvpool._checks import whole_number
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryExistsError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidTokensError,
    PoolExhaustedError,
)
from kvpool.eviction import EvictionPolicy
from kvpool.layout import KVLayout
from kvpool.manager._keeper import SessionKeeper
from kvpool.manager._keys import check_key
from kvpool.manager._session import Session, check_ttl
from kvpool.manager._sessions import Sessions
from kvpool.manager._tiers import Kept, Opener
from kvpool.prefix import TOKEN_BYTES, Identity, Match, common_bytes, token_bytes
from kvpool.stats import PrefixStats

__all__ = ["NAMELESS", "OpenOptions", "OpenedSession", "Reuse", "Source"]

Source = Literal["continued", "forked", "copied"]
"""Where the first tokens of a session come from: from an earlier turn of it or of a session without
a name, from pages shared with another one, or from a copy of its bytes."""

NAMELESS = "prefix"
"""Namespace of the keys of sessions that are opened without a key."""

_LEAST_ROOM = 256  # tokens; what a session without a limit is given room for at least


class _Opened(NamedTuple):
    entry: KVCacheEntry
    tokens_left: int


class OpenedSession(_Opened):
    """What `KVCacheManager.open_session` returns: a pair.

    Parameters
    ----------
    entry : KVCacheEntry
        Holds the first tokens: those that are not left.
    tokens_left : int
        How many of the given tokens are to be computed and appended: the last ones.

    Attributes
    ----------
    source : {"continued", "forked", "copied"} or None
        Where the tokens come from that the pool held; None if it held none.
    loaded : int
        How many tokens of the entry were loaded from tiers, behind those that the pool held.
    """

    source: Source | None = None
    loaded: int = 0

    @classmethod
    def of(
        cls, entry: KVCacheEntry, tokens_left: int, source: Source | None, loaded: int = 0
    ) -> OpenedSession:
        """Return a pair with what is known of it."""
        opened = cls(entry, tokens_left)
        opened.source, opened.loaded = source, loaded
        return opened


class OpenOptions(NamedTuple):
    """How a session is opened; see `KVCacheManager.open_session`."""

    model_id: str
    salt: str
    layout: KVLayout | None
    max_context_length: int | None
    ttl: float | None
    min_left: int
    priority: int | None
    opener: Opener | None = None


class _Asked(NamedTuple):
    """What a session is to begin with.

    Parameters
    ----------
    identity : Identity
    tokens : bytes
        Those that need not be computed if the pool holds them.
    room : int
        Tokens that the entry is to have room for.
    is_room_free : bool
        Whether the caller named no limit: then less room will do, if the tokens fit.
    ttl : float or None
    """

    identity: Identity
    tokens: bytes
    room: int
    is_room_free: bool
    ttl: float | None

    @property
    def least_room(self) -> int:
        """Tokens that the entry must have room for: one more than those asked for."""
        return len(self.tokens) // TOKEN_BYTES + 1


class Reuse:
    """Opens sessions with what the pool holds, and keeps the tokens of those that are closed.

    Not thread-safe: `KVCacheManager` holds its lock around every call.

    Parameters
    ----------
    sessions : Sessions
    layout : KVLayout or None
        For sessions that are opened without one.
    most_tokens : int or None
        Tokens that all sessions together may hold; None if the bytes of the pool decide alone.
    policy : callable, optional
        Returns the policy that ranks from the first open session on; None to keep the one that is
        there, as this argument or as what is returned.
    """

    def __init__(
        self,
        sessions: Sessions,
        layout: KVLayout | None,
        most_tokens: int | None,
        policy: Callable[[], EvictionPolicy | None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._layout = layout
        self._most_tokens = most_tokens
        self._policy = policy
        self._numbers = itertools.count(1)
        self._found = Match(None, 0)  # by the search of the call under way
        self._lookups = self._tokens_asked = 0
        self._reused: dict[str, int] = dict.fromkeys(("continued", "forked", "copied", "loaded"), 0)

    # -- opening -------------------------------------------------------------------------

    def open(self, tokens: Any, key: CacheKey | None, options: OpenOptions) -> OpenedSession:
        """Open a session with the longest prefix of its tokens that the pool holds."""
        data = token_bytes(tokens)
        count = len(data) // TOKEN_BYTES
        least = whole_number("min_left", options.min_left, InvalidTokensError, least=0)
        asked = _Asked(
            self.identity(options),
            data[: max(count - least, 0) * TOKEN_BYTES],
            self._room(count, options.max_context_length),
            options.max_context_length is None,
            options.ttl,
        )
        check_ttl(options.ttl)
        if options.priority is not None:
            whole_number("priority", options.priority, InvalidArgumentError)
        own = None if key is None else self._own(key)
        if self._policy is not None:
            self._adopt(self._policy())
        new_key, entry, source = self._begin(key, own, asked)
        reused = entry.token_count
        session = self._sessions.require(new_key)
        if session is not own:
            session.closed_at = 0  # if it ever was, then under another key
        if source != "continued":
            session.priority = 0  # not that of the session that it was forked from
        if options.priority is not None:
            self._sessions.set_priority(new_key, options.priority)
        session.identity, session.tokens = asked.identity, data[: reused * TOKEN_BYTES]
        if reused:
            ranking = self._sessions.ranking
            after = ranking.tree.before(self._found.segment, min(self._found.length, reused))
            ranking.hold(new_key, asked.identity, session.tokens, after=after)
        self._lookups += 1
        self._tokens_asked += count
        if source is not None:
            self._reused[source] += reused
        self._sessions.opening = session
        session.is_open = True
        if options.opener is not None:
            session.opener = options.opener
            self._sessions.loading[new_key] = session
        return OpenedSession.of(entry, count - reused, source)

    # -- from tiers ----------------------------------------------------------------------

    def open_again(
        self, opened: OpenedSession, tokens: Any, key: CacheKey | None, options: OpenOptions
    ) -> OpenedSession | None:
        """Open a session anew if the pool holds more of its tokens than its entry.

        Returns
        -------
        OpenedSession or None
            None if it does not; then nothing has changed.
        """
        data, held = token_bytes(tokens), opened.entry.token_count
        count = len(data) // TOKEN_BYTES
        wanted = data[: max(count - options.min_left, 0) * TOKEN_BYTES]
        if self._sessions.ranking.tree.match(self.identity(options), wanted).length <= held:
            return None
        self.close(opened.entry, np.frombuffer(data, np.int64)[:held])
        self._lookups -= 1  # it is the same one
        self._tokens_asked -= count
        if opened.source is not None:
            self._reused[opened.source] -= held
        return self.open(tokens, key, options)

    def finish_load(self, opened: OpenedSession, tokens: bytes) -> OpenedSession:
        """Count the tokens that were loaded into the entry of a session, and let it hold them.

        Parameters
        ----------
        opened : OpenedSession
            As it was before.
        tokens : bytes
            Those of which the entry holds the first ones now.
        """
        entry, left = opened
        key, session = self._opened(entry)
        held, count = len(session.tokens) // TOKEN_BYTES, entry.token_count
        loaded = count - held
        if loaded > 0 and session.identity is not None:
            tree = self._sessions.ranking.tree
            after = tree.before(tree.ends.get(key), held)
            session.tokens = tokens[: count * TOKEN_BYTES]
            self._sessions.ranking.hold(key, session.identity, session.tokens, held, after)
            self._reused["loaded"] += loaded
        return OpenedSession.of(entry, left - loaded, opened.source, loaded)

    def kept(self, key: CacheKey) -> Kept | None:
        """Return what a closed session keeps; None if it keeps nothing. The arrays are leases."""
        session = self._sessions.require(key) if key in self._sessions else None
        if session is None or session.held is None or not isinstance(session.entry, KVCacheEntry):
            return None
        return *session.held, session.entry.keys(), session.entry.values()

    def _adopt(self, policy: EvictionPolicy | None) -> None:
        """Rank by another policy, if there is one, from now on."""
        if policy is not None:
            self._sessions.ranking.adopt(
                policy, lambda key: self._sessions.require(key).entry.block.size
            )
        self._policy = None

    def _begin(
        self, key: CacheKey | None, own: Session | None, asked: _Asked
    ) -> tuple[CacheKey, KVCacheEntry, Source | None]:
        """Find or make the entry of a session, which holds the first of the tokens asked for."""
        holder, length = self._longest(asked)
        if key is not None and own is not None:
            if own.identity == asked.identity:
                kept = common_bytes(own.known_tokens, asked.tokens, 0) // TOKEN_BYTES
                if kept and kept >= length:
                    with contextlib.suppress(PoolExhaustedError):  # see below
                        return key, self._continued(key, key, kept, asked), "continued"
            made, entry, source = self._begin(None, None, asked)
            pins, own.pins = own.pins, 0
            if key in self._sessions:  # it was not evicted for the new one
                self._sessions.pass_on(key, self._new_key())  # others may begin with its tokens
            entry = self._sessions.pass_on(made, key)
            self._sessions.require(key).pins = pins
            return key, entry, source
        new_key = self._new_key() if key is None else key
        if holder is None:
            return new_key, self._made(new_key, asked), None
        session = self._sessions.require(holder)
        is_whole = length == len(session.tokens) // TOKEN_BYTES
        # Where both the tokens that are there and room for all of them do not fit, the tokens go.
        try:
            if is_whole and holder.namespace == NAMELESS and self._sessions.room.may_end(holder):
                return new_key, self._continued(holder, new_key, length, asked), "continued"
            fork = self._sessions.fork(
                holder,
                new_key,
                asked.ttl,
                token_count=length,
                max_context_length=asked.least_room if asked.is_room_free else asked.room,
                is_ranked=False,
            )
        except PoolExhaustedError:
            return new_key, self._made(new_key, asked), None
        return new_key, fork, "forked" if fork.block.is_fork else "copied"

    def _made(self, key: CacheKey, asked: _Asked) -> KVCacheEntry:
        layout = asked.identity.layout
        return self._sessions.create(key, asked.room, layout, asked.ttl, is_ranked=False)

    def _longest(self, asked: _Asked) -> tuple[CacheKey | None, int]:
        """Return a session that holds the most of the tokens asked for, and how many it holds."""
        ranking = self._sessions.ranking
        while True:
            self._found = ranking.tree.match(asked.identity, asked.tokens)
            segment, length = self._found
            if segment is None:
                return None, 0
            holder = ranking.tree.holder(segment)
            session = self._sessions.require(holder)
            known = session.known_tokens
            if length * TOKEN_BYTES <= len(known):
                return holder, length
            session.tokens = known  # the rest was dropped from the entry, by whoever has it
            if known:
                ranking.hold(holder, asked.identity, known, length)
            else:
                ranking.forget(holder, session.entry.block.size)

    def _continued(
        self, key: CacheKey, new_key: CacheKey, length: int, asked: _Asked
    ) -> KVCacheEntry:
        """Go on with a session from one of its tokens, under a new key or the same."""
        entry = self._sessions.cache_entry(key)
        if not asked.is_room_free or entry.max_context_length < asked.least_room:
            self._sessions.grow(key, entry, asked.room)
        if entry.token_count > length:
            entry.drop(length)
        if asked.ttl is not None:
            self._sessions.set_ttl(key, check_ttl(asked.ttl))
        return self._sessions.pass_on(key, new_key)

    # -- closing -------------------------------------------------------------------------

    def close(self, entry: KVCacheEntry, tokens: Any) -> CacheKey:
        """Keep the tokens of a session, for others that begin with them; return its key."""
        key, session = self._opened(entry)
        data = token_bytes(tokens)
        known = session.known_tokens
        if not data.startswith(known):
            at = common_bytes(known, data, 0) // TOKEN_BYTES
            raise InvalidTokensError(
                f"session {entry.session_id!r} was opened with other tokens: they differ from "
                f"position {at} on, and the entry holds {len(known) // TOKEN_BYTES} of those"
            )
        used = len(session.tokens) // TOKEN_BYTES
        data = data[: entry.token_count * TOKEN_BYTES]
        tree, held = self._sessions.ranking.tree, len(known) // TOKEN_BYTES
        if self._most_tokens is not None and session.identity is not None:
            found = tree.match(session.identity, data, tree.before(tree.ends.get(key), held))
            data = self._within_budget(data, found.length, self._most_tokens)
        count = len(data) // TOKEN_BYTES
        if not count or session.identity is None:
            self._sessions.remove(key)
            return key
        entry.drop(count)
        session.tokens, session.closed_at = data, time.time_ns()
        after = tree.before(tree.ends.get(key), min(held, count))
        self._sessions.ranking.hold(key, session.identity, data, used, after)
        session.is_open = False  # before the caller's entry ends: no session stays open without one
        self._sessions.pass_on(key, key)
        self._end_covered(key)
        return key

    def _within_budget(self, data: bytes, held: int, most: int) -> bytes:
        """Make room for tokens of which some are held; return the first of them that fit."""
        tree = self._sessions.ranking.tree
        count = len(data) // TOKEN_BYTES
        new = count - held
        self._sessions.room.shrink_to(most - new)
        over = max(tree.token_count + new - most, 0)
        return data[: max(count - over, 0) * TOKEN_BYTES]

    def _end_covered(self, key: CacheKey) -> None:
        """Remove sessions without a name whose tokens a session holds as well."""
        covered = [
            other
            for segment in self._sessions.ranking.tree.ends[key].path()
            for other in segment.holders
            if other != key and other.namespace == NAMELESS
        ]
        for other in covered:
            if self._sessions.room.may_end(other):
                self._sessions.remove(other)

    def _opened(self, entry: object) -> tuple[CacheKey, Session]:
        if not isinstance(entry, PoolEntry) or not isinstance(entry.keeper, SessionKeeper):
            raise InvalidArgumentError(f"entry must come from open_session, unlike {entry!r}")
        key = entry.keeper.key
        session = self._sessions.require(key) if key in self._sessions else None
        if session is None or session.entry is not entry:
            raise EntryRemovedError(
                f"the entry of session {entry.session_id!r} was closed, removed or evicted"
            )
        if not session.is_open:
            raise InvalidArgumentError(
                f"session {entry.session_id!r} is not open: only what open_session returned "
                "can be closed"
            )
        return key, session

    # -- what is known of a session ------------------------------------------------------

    def is_open(self, key: CacheKey) -> bool:
        """Return whether a session was opened, and is not closed."""
        check_key(key)
        return key in self._sessions and self._sessions.require(key).is_open

    def tokens_of(self, key: CacheKey) -> bytes | None:
        """Return the known tokens that a session holds; None if its tokens are not known."""
        check_key(key)
        session = self._sessions.require(key) if key in self._sessions else None
        return None if session is None or session.identity is None else session.known_tokens

    def known_session(
        self, key: CacheKey, options: OpenOptions
    ) -> tuple[Identity, bytes | None, int]:
        """Return whose tokens a session has, those that the pool holds, and when it was closed.

        There are none if the key has no entry, or one of another identity.
        """
        identity, data = self.identity(options), self.tokens_of(key)
        if data is None:
            return identity, None, 0
        session = self._sessions.require(key)
        return (
            (identity, data, session.closed_at)
            if session.identity == identity
            else (identity, None, 0)
        )

    # -- figures and checks --------------------------------------------------------------

    def stats(self) -> PrefixStats:
        """Return the figures of prefix reuse."""
        return PrefixStats(
            lookups=self._lookups,
            tokens_asked=self._tokens_asked,
            tokens_reused=sum(self._reused.values()),
            tokens_by_source=MappingProxyType(dict(self._reused)),
            tokens_held=self._sessions.ranking.tree.token_count,
        )

    def identity(self, options: OpenOptions) -> Identity:
        """Return whose tokens a session has that is opened so."""
        for name, text in ("model_id", options.model_id), ("salt", options.salt):
            if not isinstance(text, str):
                raise InvalidArgumentError(f"{name} must be a str, not {text!r}")
        layout = self._layout if options.layout is None else options.layout
        if layout is None:
            raise InvalidLayoutError(
                "no layout: pass one, or give the manager one for all its entries"
            )
        if not isinstance(layout, KVLayout):
            raise InvalidLayoutError(f"layout must be a KVLayout, not {layout!r}")
        return Identity(options.model_id, options.salt, layout)

    def _room(self, count: int, most: int | None) -> int:
        if most is None:
            return max(1 << count.bit_length(), _LEAST_ROOM)
        room = whole_number("max_context_length", most, InvalidLayoutError, least=1)
        if room < count:
            raise ContextOverflowError(f"{count} tokens do not fit max_context_length = {room}")
        return room

    def _own(self, key: CacheKey) -> Session | None:
        """Return the session of a key, which must be one that was closed; None if there is none."""
        check_key(key)
        if key not in self._sessions:
            return None
        session = self._sessions.require(key)
        if session.is_open:
            raise CacheInUseError(f"session {key!s} is open: close it first, or remove its entry")
        if session.identity is None:
            raise EntryExistsError(
                f"{key!s} has an entry whose tokens are not known: it was not made by open_session"
            )
        return session

    def _new_key(self) -> CacheKey:
        while (key := CacheKey(NAMELESS, next(self._numbers))) in self._sessions:
            pass
        return key
