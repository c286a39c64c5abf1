"""`KVCacheEntry`: the keys and values of a session, appended in place, read without a copy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from kvpool.entry._pool_entry import PoolEntry
from kvpool.entry._token_arrays import checked_pair
from kvpool.entry._token_store import RoomMaker, TokenStore, TokenWriter
from kvpool.errors import (
    EntryRemovedError,
    InvalidTokensError,
)
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.pool import Bytes, MemoryBlock, MemoryPool

__all__ = ["EntryOwner", "KVCacheEntry"]


class EntryOwner(RoomMaker, Protocol):
    """Who keeps an entry among others. Called without a lock of the entry."""

    def fork(self, entry: KVCacheEntry, session_id: str) -> KVCacheEntry:
        """Make a fork of the entry, and keep it too; EntryRemovedError if it is kept no more."""


class KVCacheEntry(TokenStore):
    """The keys and values of one session.

    Parameters
    ----------
    pool : MemoryPool
    block : MemoryBlock
        A live block of `pool` with at least ``geometry.nbytes`` bytes.
    session_id : str
    geometry : EntryGeometry
        From `KVLayout.geometry`.
    clock, on_use
        As for `PoolEntry`.
    owner : EntryOwner, optional
        Without one, an entry that lacks pages raises.

    Notes
    -----
    *Pages.* In an elastic pool an entry costs the pages of the tokens that it holds. A write
    that needs pages which the budget lacks has others evicted, and else changes nothing.

    *Views are leases.* While an array from `key`, `value`, `keys` or `values`, or anything
    derived from it, lives, the entry is not evicted; removed by hand, it keeps its bytes until
    the last view is gone.

    *Threads.* Any method may be called from any thread. Appends to one entry follow one
    another; appends to different entries do not wait for each other.

    Examples
    --------
    >>> import numpy as np
    >>> from kvpool import KVLayout, MemoryPool
    >>> pool = MemoryPool(1 << 20, backend="numpy")
    >>> layout = KVLayout(layers=1, kv_heads=2, head_dim=4, dtype="float32")
    >>> entry = KVCacheEntry.create(pool, layout, max_context_length=16, session_id="chat-42")
    >>> entry.append(0, np.ones((2, 3, 4), "float32"), np.zeros((2, 3, 4), "float32"))
    3
    >>> entry.key(0).shape, entry.token_count
    ((2, 3, 4), 3)
    """

    def __init__(
        self,
        pool: MemoryPool,
        block: MemoryBlock,
        session_id: str,
        geometry: EntryGeometry,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_use: Callable[[PoolEntry], object] | None = None,
        owner: EntryOwner | None = None,
    ) -> None:
        super().__init__(pool, block, session_id, geometry, clock=clock, on_use=on_use, room=owner)
        self._owner = owner

    @classmethod
    def create(
        cls,
        pool: MemoryPool,
        layout: KVLayout,
        max_context_length: int,
        session_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> KVCacheEntry:
        """Reserve an entry in a pool.

        Raises
        ------
        InvalidLayoutError
            `max_context_length` is less than 1.
        PoolExhaustedError
            It does not fit.
        """
        geometry = layout.geometry(max_context_length, pool.granule)
        return cls(pool, pool.reserve(geometry), session_id, geometry, clock=clock)

    # -- writing -------------------------------------------------------------------------

    def append(self, layer: int, keys: ArrayLike, values: ArrayLike) -> int:
        """Write the next tokens of one layer, in place behind those that it holds.

        Every layer appends the same number of tokens, in any order of layers, before a
        layer goes on to the next ones.

        Parameters
        ----------
        layer : int
        keys, values : array, shape (kv_heads, tokens, head_dim), or (kv_heads, head_dim) for one
            Of the layout's dtype. Nothing is cast.

        Returns
        -------
        int
            Tokens that the layer now holds.

        Raises
        ------
        InvalidTokensError, LayerIndexError, LayerMismatchError, ContextOverflowError
            Nothing has changed.
        PoolExhaustedError
            The pages cannot be had, whoever is evicted; nothing has changed.
        EntryRemovedError
        """
        lead = (self.layout.kv_heads,)
        new_keys, new_values, count = checked_pair(self.layout, lead, keys, values, self.session_id)
        self._check_layer(layer)

        def put(root: Bytes, geometry: EntryGeometry, start: int) -> None:
            target = geometry.layer_view(root, layer, start, count)
            target[0] = new_keys
            target[1] = new_values

        return self._write(layer, count, put)

    def append_with(self, layer: int, count: int, put: TokenWriter) -> int:
        """Let the caller put the next tokens of one layer in place; else as `append`.

        For arrays that NumPy does not know, such as tensors.

        Parameters
        ----------
        layer : int
        count : int
            Tokens to come, at least 1.
        put : callable
            Called with the bytes of the entry, their geometry, and the position of the first
            token to write. The bytes are the array that every view is based on: the same one as
            before for as long as a lease lives and the entry does not move or part from its
            forks. It is called under the lock of the entry, so it must not call the entry.

        Returns
        -------
        int
            Tokens that the layer now holds.

        Raises
        ------
        InvalidTokensError, LayerIndexError, LayerMismatchError, ContextOverflowError
            Nothing was written; nothing has changed.
        PoolExhaustedError
            The pages cannot be had, whoever is evicted; nothing has changed.
        EntryRemovedError

        Notes
        -----
        Where `put` raises, the layer holds the tokens that it held before.
        """
        if count < 1:
            raise InvalidTokensError(f"session {self.session_id!r} gets {count} tokens to append")
        self._check_layer(layer)
        return self._write(layer, count, put)

    def extend(self, keys: ArrayLike, values: ArrayLike) -> int:
        """Write the next tokens of all layers at once.

        Parameters
        ----------
        keys, values : array, shape (layers, kv_heads, tokens, head_dim), or without tokens for one
            Of the layout's dtype.

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        InvalidTokensError, LayerMismatchError, ContextOverflowError, PoolExhaustedError
            Nothing has changed.
        EntryRemovedError
        """
        lead = (self.layout.layers, self.layout.kv_heads)
        new_keys, new_values, count = checked_pair(self.layout, lead, keys, values, self.session_id)

        def put(root: Bytes, geometry: EntryGeometry, start: int) -> None:
            target = geometry.full_view(root, start, count)
            target[0] = new_keys
            target[1] = new_values

        return self._write(None, count, put)

    def truncate(self, token_count: int) -> None:
        """Drop the tokens from position `token_count` on, and any that not all layers hold.

        Views taken before still show what was there until it is written again. In an elastic
        pool the pages go back, unless such a view is alive; see `trim`.

        Parameters
        ----------
        token_count : int
            Tokens to keep, between 0 and `token_count`.

        Raises
        ------
        InvalidTokensError
            It is no whole number, or the entry does not hold that many; nothing has changed.
        EntryRemovedError
        """
        with self._lock:
            kept = self._check_kept(token_count)
            lease = self._lease()
            self._tokens.truncate(kept)
            self._note_use()
            del lease  # it would keep the pages
            with contextlib.suppress(EntryRemovedError):  # by others, just now
                self._trim()

    def trim(self) -> None:
        """Give back pages behind the tokens held, which a view kept `truncate` from doing.

        Raises
        ------
        EntryRemovedError
        """
        with self._lock:
            self._trim()

    def fork(self, session_id: str) -> KVCacheEntry:
        """Make an entry that begins with the tokens that all layers of this one hold.

        Both go on by themselves: what one writes the other never shows. Where the pool can,
        the tokens are shared, not copied, until they are written; see `MemoryPool.fork`.

        Parameters
        ----------
        session_id : str
            Of the fork. If a manager keeps this entry it keeps the fork too, under a key
            with the same namespace and this id.

        Returns
        -------
        KVCacheEntry
            With the same layout and `max_context_length`.

        Raises
        ------
        EntryExistsError
            The manager has an entry of that key.
        PoolExhaustedError
            Tokens had to be copied, and there is no room; nothing has changed.
        EntryRemovedError
        """
        if self._owner is not None:
            return self._owner.fork(self, session_id)
        return self.fork_for(session_id)

    def fork_for(
        self,
        session_id: str,
        on_use: Callable[[PoolEntry], object] | None = None,
        owner: EntryOwner | None = None,
    ) -> KVCacheEntry:
        """Make a fork as `fork` does, for an owner who takes it in."""
        with self._lock:
            root, held = self._lease(), self._tokens.complete
            stride = self._geometry.token_stride
            shared = self.pool.fork(self.block, held * stride)
            block, shown = shared or (self.pool.reserve(self._geometry), 0)
            child = KVCacheEntry(
                *(self.pool, block, session_id, self._geometry),
                clock=self._clock,
                on_use=on_use,
                owner=owner,
            )
            try:
                child._take(self._geometry.full_view(root, 0, held), shown // stride)
            except BaseException:
                self.pool.deallocate(block)
                raise
            finally:
                del root  # a traceback that someone keeps must not keep the lease
        if shared is None:
            self.pool.count_copied_fork()
        self._note_use()
        return child

    def relocate(self, block: MemoryBlock, geometry: EntryGeometry) -> MemoryBlock:
        """Move the tokens into another block of the same pool, laid out anew.

        Views taken before keep showing the old block.

        Parameters
        ----------
        block : MemoryBlock
            With room for ``geometry.nbytes``; belongs to the entry from now on.
        geometry : EntryGeometry
            Of the same layout, with room for the tokens held.

        Returns
        -------
        MemoryBlock
            The block that the entry had; to be deallocated by the caller.

        Raises
        ------
        EntryRemovedError
            The entry is gone; nothing has changed.
        PoolExhaustedError
            There are not enough pages for the tokens; nothing has changed.
        """
        with self._lock:
            source = self._lease()
            target = self.pool.lease(block)
            end = self._tokens.longest * geometry.token_stride
            # In one go, so that others are evicted for all of it or not at all.
            self.pool.commit(block, range(geometry.groups), 0, end)
            for layer in range(self.layout.layers):
                held = self._tokens.of(layer)
                moved = geometry.layer_view(target, layer, 0, held)
                moved[...] = self._geometry.layer_view(source, layer, 0, held)
            before, self.block, self._geometry = self.block, block, geometry
            return before

    # -- reading -------------------------------------------------------------------------

    def data(self) -> Bytes:
        """Return all bytes of the entry, as `PoolEntry.data`."""
        with self._lock:  # the block changes where the entry is relocated
            root = self._lease()
        self._note_use()
        return root

    def key(self, layer: int, *, writeable: bool = False) -> NDArray[Any]:
        """Return the keys of one layer, without a copy. A lease.

        Parameters
        ----------
        layer : int
        writeable : bool, default False
            Whether tokens may be changed through the view.

        Returns
        -------
        ndarray, shape (kv_heads, tokens, head_dim)
            Contiguous per head. It covers the tokens that this layer holds now; take a new
            view after an append.

        Raises
        ------
        LayerIndexError, EntryRemovedError
        """
        return self._view(layer, 0, writeable)

    def value(self, layer: int, *, writeable: bool = False) -> NDArray[Any]:
        """Return the values of one layer, without a copy; as `key`."""
        return self._view(layer, 1, writeable)

    def keys(self) -> NDArray[Any]:
        """Return the keys of all layers, without a copy. A lease.

        Returns
        -------
        ndarray, shape (layers, kv_heads, token_count, head_dim)
            Read-only; contiguous per head.

        Raises
        ------
        EntryRemovedError
        """
        return self._complete_view(0)

    def values(self) -> NDArray[Any]:
        """Return the values of all layers, without a copy; as `keys`."""
        return self._complete_view(1)
