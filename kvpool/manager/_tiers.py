"""`Beyond`: the tiers of one manager, which sessions are loaded from and stored in."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryRemovedError, InvalidTierError, PoolClosedError, TierError
from kvpool.prefix import Identity

if TYPE_CHECKING:
    from kvpool.manager._tier_notes import TierNotes
    from kvpool.tiers import StoredSession, TierEvent, TierStore

__all__ = ["Beyond", "Kept", "Opener", "Tiers", "open_tiers"]

Tiers: TypeAlias = "TierStore | str | Sequence[str]"
"""A store of tiers, or the URL of each tier."""

Kept: TypeAlias = tuple[Identity, bytes, NDArray[Any], NDArray[Any]]
"""Whose tokens a session keeps, the tokens, and its keys and values; the arrays are leases."""

_log = logging.getLogger(__name__)


class Opener:
    """A call of `open_session` under way, which loads into an entry of its own.

    Attributes
    ----------
    has_failed : bool
        Whether the call has ended by an error or an interrupt: no caller will have the entry.
    is_done : bool
        Whether the call has ended, and the caller has the entry.
    """

    __slots__ = ("has_failed", "is_done")

    def __init__(self) -> None:
        self.has_failed = self.is_done = False


class Beyond:
    """Loads from a store of tiers and stores in it, whatever the tiers do.

    Parameters
    ----------
    store : TierStore
    is_own : bool
        Whether the store ends with the manager.

    Attributes
    ----------
    store : TierStore
    notes : TierNotes or None
        Gets what receipts are made of.
    """

    def __init__(self, store: TierStore, *, is_own: bool) -> None:
        self.store = store
        self.notes: TierNotes | None = None
        self._is_own, self._is_closed = is_own, False

    def take_notes(self, notes: TierNotes) -> None:
        """Note what happens from now on."""
        self.notes = notes
        self.store.listen(notes.evicted)

    def could_load(self, count: int, held: int, limit: int) -> bool:
        """Return whether a chunk could follow those that an entry holds.

        Parameters
        ----------
        count : int
            Tokens of the session.
        held : int
            Those that the entry holds.
        limit : int
            The most tokens that the entry shall hold.
        """
        chunk = self.store.chunk_tokens
        return min(count // chunk * chunk, limit) > held

    def load(
        self,
        identity: Identity,
        tokens: bytes,
        entry: KVCacheEntry,
        limit: int,
        is_wanted: Callable[[], bool] | None = None,
    ) -> bool:
        """Load what the tiers have of some tokens, behind those that an entry holds.

        Parameters
        ----------
        identity : Identity
        tokens : bytes
        entry : KVCacheEntry
        limit : int
            The most tokens that the entry shall hold.
        is_wanted : callable, optional
            Returns whether the load is to go on.

        Returns
        -------
        bool
            Whether another call was loading the same. Then this one has waited, and loaded nothing.

        Notes
        -----
        What fails is a miss, so that a session opens with what it has.
        """
        events: list[TierEvent] = []
        told = None if self.notes is None else events.append
        try:
            return self.store.load(identity, tokens, entry, limit, told, is_wanted).waited
        except (EntryRemovedError, PoolClosedError):  # by another thread meanwhile
            return False
        except Exception:  # a tier, a codec or a policy is not ours
            if not self._is_closed:  # else the tiers are gone, and so is the session
                _log_error("the tiers failed to load tokens: they are computed")
            return False
        finally:
            if self.notes is not None and events:
                self.notes.loaded(entry, events)

    def keep(self, kept: Kept) -> None:
        """Have the tokens of a session written behind; the arrays are copied before this ends."""
        try:
            self.store.put(*kept)
        except Exception:  # the tokens are in the pool, which is what was asked for
            _log_error("the tiers failed to take tokens: they stay in the pool alone")

    def keep_name(self, identity: Identity, key: CacheKey, tokens: bytes) -> None:
        """Have the tokens of a session written behind, under its key."""
        try:
            self.store.put_session(identity, key, tokens)
        except Exception:
            _log_error(f"the tiers failed to take the tokens of session {key!s}")

    def session(self, identity: Identity, key: CacheKey) -> StoredSession | None:
        """Return what the tiers have under a key; None if there is nothing, or they fail."""
        try:
            return self.store.find_session(identity, key)
        except Exception:  # a tier or a codec is not ours
            _log_error(f"the tiers failed to find session {key!s}")
            return None

    def save(self, identity: Identity, tokens: bytes, entry: KVCacheEntry, start: int) -> None:
        """Have tokens written behind that are about to leave the pool, those from `start` on.

        What the tiers are known to have is not written again. The rest is copied before this
        ends, so nothing keeps the memory of the entry; what no queue has room for is dropped.
        """
        try:
            self._put(identity, tokens, entry, start)
        except (EntryRemovedError, PoolClosedError, TierError):
            return  # the pool was used past the manager, or the store was closed before it
        except Exception:  # neither a store nor a lack of memory may keep an eviction
            _log_error("the tiers failed to take tokens: they leave the pool all the same")

    def _put(self, identity: Identity, tokens: bytes, entry: KVCacheEntry, start: int) -> None:
        keys, values = entry.peek()
        self.store.put(identity, tokens, keys, values, start=start)

    def close(self, timeout: float, progress: Callable[[int, int], object] | None) -> None:
        """Write what is queued, for some seconds at most; close a store of the manager's own."""
        self._is_closed = True
        if self._is_own:
            self.store.close(timeout, progress)
        else:
            self.store.drain(timeout, progress)


def _log_error(what: str) -> None:
    """Log the error that is handled, as text: a record that keeps it would keep leases."""
    _log.error("%s\n%s", what, traceback.format_exc().rstrip())


def open_tiers(tiers: Tiers | None, chunk_tokens: int) -> Beyond | None:
    """Return the tiers of a manager; None for None.

    Raises
    ------
    InvalidTierError
        It is not a `TierStore` or URLs, or a URL is not accepted.
    PluginError
        There is no tier or codec of a name.
    TierError
        A tier cannot be opened.
    """
    if tiers is None:
        return None
    store_type: type[TierStore] = import_module("kvpool.tiers").TierStore  # slow to import
    if isinstance(tiers, store_type):
        return Beyond(tiers, is_own=False)
    urls: object = [tiers] if isinstance(tiers, str) else tiers
    if not isinstance(urls, list | tuple) or not urls:
        raise InvalidTierError(f"tiers must be a TierStore or URLs of tiers, not {tiers!r}")
    return Beyond(store_type(urls, chunk_tokens=chunk_tokens), is_own=True)
