"""`KVCacheEntry`: the keys and values of a session, appended in place, read without a copy."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike, NDArray

from kvpool.block import Bytes, MemoryBlock
from kvpool.errors import ContextOverflowError, EntryError, InvalidTokensError, LayerIndexError
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.pool import MemoryPool
from kvpool.pool_entry import PoolEntry
from kvpool.token_arrays import checked_pair
from kvpool.token_count import TokenCount

__all__ = ["KVCacheEntry"]


class KVCacheEntry(PoolEntry):
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

    Notes
    -----
    *Views are leases.* While an array from `key`, `value`, `keys` or `values`, or anything
    derived from it, lives, the entry is not evicted; removed by hand, it keeps its bytes until
    the last view is gone.

    *Threads.* Any method may be called from any thread. Appends to one entry follow one
    another; appends to different entries do not wait for each other.

    Examples
    --------
    >>> import numpy as np
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
    ) -> None:
        super().__init__(pool, block, session_id, clock, on_use)
        self._geometry = geometry
        self._tokens = TokenCount(geometry.layout.layers)
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        pool: MemoryPool,
        layout: KVLayout,
        max_context_length: int,
        session_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> KVCacheEntry:
        """Allocate an entry from a pool.

        Raises
        ------
        InvalidLayoutError
            `max_context_length` is less than 1.
        PoolExhaustedError
            It does not fit.
        """
        geometry = layout.geometry(max_context_length)
        return cls(pool, pool.allocate(geometry.nbytes), session_id, geometry, clock=clock)

    # -- what it is ----------------------------------------------------------------------

    @property
    def layout(self) -> KVLayout:
        """The geometry of one token."""
        return self._geometry.layout

    @property
    def max_context_length(self) -> int:
        """Tokens that the entry has room for."""
        return self._geometry.max_context_length

    @property
    def token_count(self) -> int:
        """Tokens that every layer holds."""
        return self._tokens.complete

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
        EntryRemovedError
        """
        lead = (self.layout.kv_heads,)
        new_keys, new_values, count = checked_pair(self.layout, lead, keys, values, self.session_id)
        self._check_layer(layer)
        with self._lock:
            start = self._next_position(count, layer)
            target = self._geometry.layer_view(self._lease(), layer, start, count)
            target[0] = new_keys
            target[1] = new_values
            held = self._tokens.append(layer, count)
        self._note_use()
        return held

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
        InvalidTokensError, LayerMismatchError, ContextOverflowError
            Nothing has changed.
        EntryRemovedError
        """
        lead = (self.layout.layers, self.layout.kv_heads)
        new_keys, new_values, count = checked_pair(self.layout, lead, keys, values, self.session_id)
        with self._lock:
            start = self._next_position(count)
            target = self._geometry.full_view(self._lease(), start, count)
            target[0] = new_keys
            target[1] = new_values
            held = self._tokens.extend(count)
        self._note_use()
        return held

    def truncate(self, token_count: int) -> None:
        """Drop the tokens from position `token_count` on, and any that not all layers hold.

        Views taken before still show what was there until it is written again.

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
            _lease = self._lease()
            self._tokens.truncate(kept)
        self._note_use()

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
        """
        with self._lock:
            source = self._lease()
            target = self.pool.lease(block)
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

    # -- inside --------------------------------------------------------------------------

    def _view(self, layer: int, region: int, writeable: bool) -> NDArray[Any]:
        self._check_layer(layer)
        with self._lock:
            held = self._tokens.of(layer)
            both = self._geometry.layer_view(self._lease(), layer, 0, held)
        self._note_use()
        view: NDArray[Any] = both[region]
        view.setflags(write=writeable)
        return view

    def _complete_view(self, region: int) -> NDArray[Any]:
        with self._lock:
            both = self._geometry.full_view(self._lease(), 0, self._tokens.complete)
        self._note_use()
        view: NDArray[Any] = both[region]
        view.setflags(write=False)
        return view

    def _check_kept(self, token_count: int) -> int:
        try:
            kept = operator.index(token_count)
        except TypeError:
            kept = -1
        if not 0 <= kept <= self._tokens.complete:
            self._lease()  # that it is gone goes before what else is wrong
            raise InvalidTokensError(
                f"cannot truncate session {self.session_id!r} to {token_count!r} tokens: "
                f"it holds {self._tokens.complete}"
            )
        return kept

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.layout.layers:
            raise LayerIndexError(
                f"session {self.session_id!r} has no layer {layer}: it has {self.layout.layers}"
            )

    def _next_position(self, count: int, layer: int | None = None) -> int:
        """Return where `count` tokens of a layer, or of all, go; raise if they must not."""
        try:
            if layer is None:
                held = self._tokens.check_extend(self.session_id)
            else:
                held = self._tokens.check_append(layer, count, self.session_id)
            if held + count > self.max_context_length:
                raise ContextOverflowError(
                    f"session {self.session_id!r} holds {held} tokens, {count} more would exceed "
                    f"its max_context_length of {self.max_context_length}"
                )
        except EntryError:
            self._lease()  # that it is gone goes before what else is wrong
            raise
        return held
