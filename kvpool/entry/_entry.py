"""Entries: `PoolEntry`, any block of a session, and `KVCacheEntry`, whose block has a layout."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpool._checks import check_flag, whole_number
from kvpool._html import Card
from kvpool._process import ForkAware, forget_forks, watch_forks
from kvpool._sizes import format_size
from kvpool._uncopyable import Uncopyable
from kvpool.entry._keeper import STANDALONE, Keeper, Room, Standalone
from kvpool.entry._new_tokens import NewTokens, Place, StagedTokens
from kvpool.entry._token_files import read_tokens, write_tokens
from kvpool.entry._tokens import TokenCount, as_token_arrays
from kvpool.errors import (
    ContextOverflowError,
    EntryError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidTokensError,
    LayerIndexError,
    LayerMismatchError,
    PoolExhaustedError,
    SharedTokensError,
    StaleBlockError,
)
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.pool import Bytes, MemoryBlock, MemoryPool
from kvpool.stats import CopyReason

__all__ = ["KVCacheEntry", "Lease", "PoolEntry"]

_uses = itertools.count(1)  # tells the order of two uses if the clock stands still between them


class PoolEntry(Uncopyable):
    """A block that belongs to a session.

    Parameters
    ----------
    pool : MemoryPool
    block : MemoryBlock
        A live block of `pool`.
    session_id : str
        Shown in errors.
    keeper : Keeper, optional
        The manager, as the entry sees it. By default the entry has no manager.

    Attributes
    ----------
    created_at, last_accessed : float
        Seconds of the keeper's clock. A call that raises does not count as a use.
    last_use : int
        Greater for the later of two uses, even if they were of two entries.
    use_noted : bool
        Whether the keeper knows of a use that it has not told its eviction policy yet.
    """

    def __init__(
        self,
        pool: MemoryPool,
        block: MemoryBlock,
        session_id: str,
        keeper: Keeper = STANDALONE,
    ) -> None:
        self.pool = pool
        self.block = block
        self.session_id = session_id
        self.created_at = self.last_accessed = keeper.now()
        self.last_use = next(_uses)
        self.use_noted = False
        self._keeper = keeper

    @property
    def keeper(self) -> Keeper:
        """The manager, as the entry sees it."""
        return self._keeper

    @property
    def size_bytes(self) -> int:
        """Bytes of the block."""
        return self.block.size

    def data(self) -> Bytes:
        """Return all bytes of the entry.

        Returns
        -------
        ndarray of uint8, shape (size_bytes,)
            Writable and zero-copy. It is a lease: the entry is not evicted while this array, or
            an array made from it, lives.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        root = self._lease()
        self._note_use()
        return root

    def lease(self) -> Lease:
        """Return an object that keeps the entry from being evicted.

        Returns
        -------
        Lease
            Keeps the entry until the end of its ``with`` block, until `Lease.release`, or until
            nothing refers to it.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        root = self._current()
        self._note_use()
        return Lease(root)

    def _current(self) -> Bytes:
        """Return all bytes of the block that the entry has now; a lease."""
        return self._lease()

    def _lease(self) -> Bytes:
        try:
            return self.pool.lease(self.block)
        except StaleBlockError:
            raise self._gone() from None

    def _gone(self) -> EntryRemovedError:
        return EntryRemovedError(f"the entry of session {self.session_id!r} was removed or evicted")

    def _note_use(self) -> None:
        """Note a use that succeeded. The caller holds a lease, so the entry is still there."""
        keeper = self._keeper
        self.last_accessed = keeper.now()
        self.last_use = next(_uses)
        if not self.use_noted:
            self.use_noted = True  # before: another thread may read the note at once
            try:
                keeper.note_use(self)
            except BaseException:  # an interrupt
                self.use_noted = False
                raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id!r}: {self.size_bytes} bytes>"

    def _repr_html_(self) -> str:
        """Return the figures as a table, which notebooks show."""
        card = Card(f"{type(self).__name__} {self.session_id}")
        for name, figure in self._figures():
            card.row(name, figure)
        return card.html()

    def _figures(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of each figure."""
        yield "reserved", format_size(self.size_bytes)
        yield "charged", format_size(self.block.charged)
        yield "leased", "yes" if self.block.is_leased else "no"


class Lease(Uncopyable):
    """Keeps an entry from being evicted, as a view of it does; `PoolEntry.lease` makes it.

    Examples
    --------
    >>> from kvpool import CacheKey, KVCacheManager, KVLayout
    >>> with KVCacheManager("1MiB", "numpy", KVLayout(2, 2, 64)) as manager:
    ...     entry = manager.create_cache_entry(CacheKey("chat", 1), max_context_length=256)
    ...     with entry.lease():
    ...         entry.block.is_leased
    ...     entry.block.is_leased
    True
    False
    """

    __slots__ = ("_root",)

    def __init__(self, root: Bytes) -> None:
        self._root: Bytes | None = root

    def release(self) -> None:
        """End the lease; a second call does nothing."""
        self._root = None

    def __repr__(self) -> str:
        state = "released" if self._root is None else f"of {self._root.nbytes} bytes"
        return f"<{type(self).__name__} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class KVCacheEntry(PoolEntry, ForkAware):
    """The keys and values of one session.

    Parameters
    ----------
    pool : MemoryPool
    block : MemoryBlock
        A live block of `pool` with at least ``geometry.nbytes`` bytes.
    session_id : str
        Shown in errors.
    geometry : EntryGeometry
        From `KVLayout.geometry`.
    keeper : Keeper, optional
        The manager, as the entry sees it. By default the entry has no manager, and a write
        raises if the pool lacks pages for it.

    Notes
    -----
    *Pages.* In an elastic pool an entry costs the pages of the tokens that it holds. A write
    that needs more pages than the budget has left evicts other entries.

    *Views are leases.* While an array from `key`, `value`, `keys` or `values`, or anything
    derived from such an array, lives, the entry is not evicted. An entry that is removed by
    hand keeps its bytes until its last view is gone.

    *Threads.* Any method may be called from any thread. Appends to one entry wait for each
    other; appends to different entries do not.

    *Errors.* Every method is atomic: on any error nothing has changed.

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
        keeper: Keeper = STANDALONE,
    ) -> None:
        super().__init__(pool, block, session_id, keeper)
        self._geometry = geometry
        self._tokens = TokenCount(geometry.layout.layers)
        self._lock = threading.Lock()  # guards _tokens, _geometry, block and _writer
        self._writer: weakref.ref[Bytes] | None = None
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()  # and the pool refuses what is done under it

    @classmethod
    def create(
        cls,
        pool: MemoryPool,
        layout: KVLayout,
        max_context_length: int,
        session_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> KVCacheEntry:
        """Reserve an entry without a manager in a pool.

        Parameters
        ----------
        pool : MemoryPool
        layout : KVLayout
        max_context_length : int
            Tokens that the entry has room for.
        session_id : str
            Shown in errors.
        clock : callable, default `time.monotonic`
            Returns seconds.

        Raises
        ------
        InvalidLayoutError
            `layout` is not a `KVLayout`, or `max_context_length` not a whole number of at least 1.
        InvalidArgumentError
            `pool` is not a `MemoryPool`, or `clock` cannot be called.
        PoolExhaustedError
            The pool has no free range for the entry.
        PoolClosedError
            The pool is closed.
        """
        if not isinstance(pool, MemoryPool):
            raise InvalidArgumentError(f"pool must be a MemoryPool, not {pool!r}")
        if not isinstance(layout, KVLayout):
            raise InvalidLayoutError(f"layout must be a KVLayout, not {layout!r}")
        if not callable(clock):
            raise InvalidArgumentError(f"clock must return seconds when called, unlike {clock!r}")
        geometry = layout.geometry(max_context_length, pool.granule)
        return cls(pool, pool.reserve(geometry), session_id, geometry, Standalone(clock))

    def __repr__(self) -> str:
        tokens = f"{self.token_count} of {self.max_context_length} tokens"
        return f"<{type(self).__name__} {self.session_id!r}: {tokens}, {self.size_bytes} bytes>"

    def _figures(self) -> Iterator[tuple[str, str]]:
        yield "layout", str(self.layout)
        yield "tokens", f"{self.token_count:,} of {self.max_context_length:,}"
        yield from super()._figures()
        yield "shares pages", "yes" if self.is_shared else "no"

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

    @property
    def steady_count(self) -> int:
        """Tokens at the start that every layer has held since the entry was made."""
        return int(min(self._tokens.lowest, self._tokens.complete))

    @property
    def committed_bytes(self) -> int:
        """Bytes that the pool charges for this entry. Pages of a parent are the parent's."""
        return self.block.charged

    @property
    def is_shared(self) -> bool:
        """Whether any page of the entry is shared with its parent or with a fork.

        Tokens in such pages cannot be changed in place. Appending is always safe.
        """
        return self.block.shares_pages

    def held(self, layer: int) -> int:
        """Return the tokens that one layer holds.

        Raises
        ------
        LayerIndexError
            The layout has no such layer.
        """
        return self._tokens.of(self._check_layer(layer))

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
        InvalidTokensError
            The shape or dtype of `keys` or `values` does not fit the layout.
        LayerIndexError
            The layout has no such layer.
        LayerMismatchError
            The layer has appended in this step already, or another number of tokens than the
            layers before it.
        ContextOverflowError
            The layer would hold more than `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.
        """
        lead = (self._geometry.layout.kv_heads,)
        arrays = as_token_arrays(self._geometry.layout, lead, keys, values, self.session_id)
        return self._write(self._check_layer(layer), *arrays)

    def extend(self, keys: ArrayLike, values: ArrayLike) -> int:
        """Write the next tokens of all layers at once.

        Parameters
        ----------
        keys, values : array, shape (layers, kv_heads, tokens, head_dim), or without tokens for one
            Of the layout's dtype. Nothing is cast.

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        InvalidTokensError
            The shape or dtype of `keys` or `values` does not fit the layout.
        LayerMismatchError
            Some layers hold more tokens than the others.
        ContextOverflowError
            The entry would hold more than `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.
        """
        lead = (self._geometry.layout.layers, self._geometry.layout.kv_heads)
        arrays = as_token_arrays(self._geometry.layout, lead, keys, values, self.session_id)
        return self._write(None, *arrays)

    def writing(self, layer: int, count: int) -> NewTokens:
        """Let the caller write the next tokens of one layer in place, inside a ``with`` block.

        This is what `append` does, for tokens that are not in NumPy arrays yet. The tokens count
        when the block ends. If the block raises, the layer holds the tokens that it held before.

        Parameters
        ----------
        layer : int
        count : int
            Tokens to write, at least 1.

        Returns
        -------
        NewTokens
            For a ``with`` block. It unpacks to the keys and the values to be written, each an
            array of shape (kv_heads, count, head_dim).

        Raises
        ------
        InvalidTokensError
            `count` is not a whole number of at least 1.
        LayerIndexError
            The layout has no such layer.
        LayerMismatchError
            The layer has appended in this step already, or another number of tokens than the
            layers before it.
        ContextOverflowError
            The layer would hold more than `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.

        Notes
        -----
        The block runs under the lock of the entry: it must call neither a method of the entry nor
        one of its manager.

        Examples
        --------
        >>> from kvpool import KVLayout, MemoryPool
        >>> pool = MemoryPool(1 << 20, backend="numpy")
        >>> layout = KVLayout(layers=1, kv_heads=2, head_dim=4, dtype="float32")
        >>> entry = KVCacheEntry.create(pool, layout, max_context_length=16, session_id="chat-42")
        >>> with entry.writing(0, 3) as (keys, values):
        ...     keys[:], values[:] = 1, 2
        >>> float(entry.value(0).mean())
        2.0
        """
        layer = self._check_layer(layer)
        if count.__class__ is not int or count < 1:  # unlike nearly always
            count = self._check_count(count)
        return NewTokens(layer, count, self._writing(layer, count))

    def stage(self, count: int) -> StagedTokens:
        """Take the room for the next tokens of all layers, before they are there.

        The caller writes the tokens in place, in any order, and `extend_staged` counts them.
        Until then the entry holds what it held. What is not to be counted is given up with
        `unstage`.

        Parameters
        ----------
        count : int
            Tokens to write, at least 1.

        Returns
        -------
        StagedTokens

        Raises
        ------
        InvalidTokensError
            `count` is not a whole number of at least 1.
        LayerMismatchError
            Some layers hold more tokens than the others.
        ContextOverflowError
            The entry would hold more than `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.

        Notes
        -----
        No lock is held between the two calls, unlike in the block of `writing`. The caller is the
        only one that writes to the entry meanwhile.
        """
        count = self._check_count(count)
        while True:
            with self._lock:
                try:
                    start, root, _ = self._place(None, count)
                except PoolExhaustedError as shortage:
                    missing = shortage.requested
                else:
                    return StagedTokens((root, self._geometry, start), count, self.block)
            self._make_room(missing)

    def extend_staged(self, staged: StagedTokens) -> int:
        """Count the tokens that were written where `stage` said.

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        InvalidTokensError
            `staged` is not what `stage` returned.
        LayerMismatchError
            The entry holds other tokens than when these were staged, or has moved.
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            if not self.pool.is_live(self.block):
                raise self._gone()
            if not isinstance(staged, StagedTokens):
                raise InvalidTokensError(
                    f"session {self.session_id!r} can count the StagedTokens that its stage "
                    f"returned, not {staged!r}"
                )
            held = self._tokens.check_extend(self.session_id)
            if held != staged.start or self.block is not staged.block:
                raise LayerMismatchError(
                    f"session {self.session_id!r} holds {held} tokens, and {staged.start} when its "
                    "next ones were staged: something else has written to it, or moved it"
                )
            self._note_use()
            self.pool.trim_parent(self.block)
            return self._tokens.extend(staged.count)

    def unstage(self) -> None:
        """Give up what `stage` took, once its lease has ended: the pages go back to the pool.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            self.pool.trim_parent(self.block)
            self._trim()

    def _writing(self, layer: int, count: int) -> Generator[Place, None, None]:
        while True:
            with self._lock:
                try:
                    start, root, has_new_pages = self._place(layer, count)
                except PoolExhaustedError as shortage:
                    missing = shortage.requested
                else:
                    try:
                        yield root, self._geometry, start
                        self._note_use()
                    finally:
                        if has_new_pages:
                            self.pool.trim_parent(self.block)
                        del root  # a traceback that is kept must not keep the lease
                    self._tokens.append(layer, count)
                    return
            self._make_room(missing)

    def _write(
        self, layer: int | None, keys: NDArray[Any], values: NDArray[Any], count: int
    ) -> int:
        """Write tokens of a layer, or of all, that are at hand: `writing` without its cost."""
        while True:
            try:
                with self._lock:
                    start, target, has_new_pages = self._place(layer, count)
                    try:
                        geometry = self._geometry
                        if layer is None:
                            target = geometry.full_view(target, start, count)
                        else:
                            target = geometry.layer_view(target, layer, start, count)
                        target[0] = keys
                        target[1] = values
                        self._note_use()
                    finally:
                        if has_new_pages:
                            self.pool.trim_parent(self.block)
                        del target  # a traceback that is kept must not keep the lease
                    if layer is None:
                        return self._tokens.extend(count)
                    return self._tokens.append(layer, count)
            except PoolExhaustedError as shortage:
                missing = shortage.requested
            self._make_room(missing)

    def _place(self, layer: int | None, count: int) -> tuple[int, Bytes, bool]:
        """Find where `count` tokens of a layer, or of all, go. The caller holds the lock.

        Returns
        -------
        start : int
            The position of the first token.
        root : ndarray of uint8
            The bytes of the entry, leased, with the pages for the tokens.
        has_new_pages : bool
            Whether the pool's `trim_parent` is to be called once the tokens are written.
        """
        geometry = self._geometry
        try:
            if layer is None:
                start = self._tokens.check_extend(self.session_id)
            else:
                start = self._tokens.check_append(layer, count, self.session_id)
            end = start + count
            if end > geometry.max_context_length:
                raise ContextOverflowError(
                    f"session {self.session_id!r} holds {start} tokens, {count} more would exceed "
                    f"its max_context_length of {geometry.max_context_length}"
                )
        except EntryError:
            # Raises EntryRemovedError if the entry is gone: that is what the caller must know.
            self._lease()
            raise
        group = layer if geometry.groups > 1 else None  # None is all groups, also if it is one
        stride = geometry.token_stride
        try:
            return start, *self.pool.write_lease(self.block, group, start * stride, end * stride)
        except StaleBlockError:
            raise self._gone() from None

    def _make_room(self, nbytes: int) -> None:
        """Have other entries evicted until `nbytes` more bytes can be committed."""
        lease = self._lease()  # so that this entry is not evicted for itself
        try:
            self._keeper.make_room(self, nbytes)
        finally:
            del lease

    def truncate(self, token_count: int) -> None:
        """Drop the tokens from position `token_count` on, and those that not all layers hold.

        Views taken before still show what was there until it is written again. In an elastic
        pool the pages go back to the pool, unless such a view is alive; see `trim`.

        Parameters
        ----------
        token_count : int
            Tokens to keep, between 0 and the entry's `token_count`.

        Raises
        ------
        InvalidTokensError
            It is not a whole number, or the entry holds fewer tokens.
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            kept = self._check_kept(token_count)
            lease = self._lease()
            self._note_use()
            self._tokens.truncate(kept)
            del lease  # it would keep the pages
            with contextlib.suppress(EntryRemovedError):  # by another thread, just now
                self._trim()

    def trim(self) -> None:
        """Give back pages behind the tokens held, which a view kept `truncate` from doing.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            self._trim()

    def drop(self, token_count: int) -> None:
        """Drop the tokens from a position on for the keeper: not a use, and no lease is taken.

        Parameters
        ----------
        token_count : int
            Tokens to keep; if the entry holds fewer, all of them are kept.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            kept = min(token_count, self._tokens.complete)
            if kept < self._tokens.longest or self.pool.is_elastic:
                self._tokens.truncate(kept)
                self._trim()

    def _trim(self) -> None:
        try:
            self.pool.trim(self.block, self._tokens.longest * self._geometry.token_stride)
        except StaleBlockError:
            raise self._gone() from None

    # -- forks and moves -----------------------------------------------------------------

    def fork(self, session_id: str) -> KVCacheEntry:
        """Make an entry that begins with the tokens that all layers of this one hold.

        What one of the two writes later, the other never shows. If the pool can share pages,
        the tokens are not copied until they are written; see `MemoryPool.fork`.

        Parameters
        ----------
        session_id : str
            Of the fork. If a manager keeps this entry, it keeps the fork too, under a key
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
            The tokens had to be copied, and the pool has no room for the copy.
        EntryRemovedError
            The entry was removed or evicted.
        PoolClosedError
            The manager was closed, or does not exist any more.
        """
        return self._keeper.fork(self, session_id)

    def fork_for(
        self,
        session_id: str,
        keeper: Keeper,
        room: Room,
        token_count: int | None = None,
        max_context_length: int = 0,
    ) -> KVCacheEntry:
        """Make a fork as `fork` does, for a keeper that takes it in.

        Parameters
        ----------
        session_id : str
            Of the fork.
        keeper : Keeper
            Of the fork.
        room : Room
            Where the bytes come from that cannot be shared.
        token_count : int, optional
            The most tokens to fork: the first ones. [default: all that all layers hold]
        max_context_length : int, default 0
            Tokens that the fork has room for at least. If they are more than this entry has room
            for, the tokens are copied.

        Raises
        ------
        PoolExhaustedError
            The tokens had to be copied, and the pool has no room for the copy.
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            root, held = self._lease(), self._tokens.complete
            if token_count is not None:
                held = min(token_count, held)
            try:
                geometry = self._geometry
                if max_context_length > geometry.max_context_length:
                    geometry = self.layout.geometry(max_context_length, self.pool.granule)
                end = held * geometry.token_stride
                shared = self._shared_block(geometry, end)
                if isinstance(shared, CopyReason):
                    block, shown, inherited = room.reserve(geometry, end), end, 0
                else:
                    block, shown = shared
                    inherited = shown // geometry.token_stride
                try:
                    if shown < end:  # a fork of a fork: what its parent wrote itself is copied
                        room.commit(block, shown, end)
                    child = KVCacheEntry(self.pool, block, session_id, geometry, keeper)
                    child._begin_with(root, self._geometry, held, inherited)
                    self._note_use()
                except BaseException:
                    room.give_up(block)
                    raise
            finally:
                del root  # a traceback that is kept must not keep the lease
        if isinstance(shared, CopyReason):
            self.pool.count_copied_fork(shared)
        return child

    def _shared_block(
        self, geometry: EntryGeometry, end: int
    ) -> tuple[MemoryBlock, int] | CopyReason:
        """Make the block of a fork as `MemoryPool.fork` does, unless this one may be written to."""
        if geometry is not self._geometry:
            return CopyReason.MORE_ROOM
        writer = self._writer
        if self.pool.is_elastic and writer is not None and writer() is not None:
            return CopyReason.WRITEABLE_VIEW
        try:
            return self.pool.fork(self.block, end)
        except StaleBlockError:
            raise self._gone() from None

    def _begin_with(self, root: Bytes, geometry: EntryGeometry, count: int, inherited: int) -> None:
        """Hold the first tokens of an entry whose bytes and geometry these are.

        The block of this entry shows the first `inherited` of them already.
        """
        if inherited < count:
            place = inherited, count - inherited
            target = self._geometry.full_view(self._lease(), *place)
            target[...] = geometry.full_view(root, *place)
            self.pool.trim_parent(self.block)
        self._tokens.extend(count)

    def passed_to(self, session_id: str, keeper: Keeper) -> KVCacheEntry:
        """Return another entry with the same block and tokens, for a keeper that ends this one.

        Parameters
        ----------
        session_id : str
        keeper : Keeper
            Of the new entry.
        """
        with self._lock:
            entry = KVCacheEntry(self.pool, self.block, session_id, self._geometry, keeper)
            entry._tokens.extend(self._tokens.complete)
            entry._writer = self._writer
            return entry

    def end(self) -> None:
        """Let go of the block, which another entry has; every later call is refused."""
        with self._lock:
            self.block = self.block.ended()

    def relocate(self, geometry: EntryGeometry, room: Room) -> MemoryBlock:
        """Move the tokens into another block of the same pool, laid out anew.

        Views taken before keep showing the old block.

        Parameters
        ----------
        geometry : EntryGeometry
            Of the same layout, with room for the tokens held.
        room : Room
            Where the new block comes from.

        Returns
        -------
        MemoryBlock
            The block that the entry had. The caller is to deallocate it.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        PoolExhaustedError
            There is no room for the new block beside the old one.
        """
        with self._lock:
            source = self._lease()  # so that this entry is not evicted for itself
            try:
                block = room.reserve(geometry, self._tokens.longest * geometry.token_stride)
                try:
                    self._copy_tokens(source, self.pool.lease(block), geometry)
                except BaseException:
                    room.give_up(block)
                    raise
            finally:
                del source  # a traceback that is kept must not keep the lease
            before = self.block
            self.block, self._geometry, self._writer = block, geometry, None
            return before

    def _copy_tokens(self, source: Bytes, target: Bytes, geometry: EntryGeometry) -> None:
        """Copy all tokens into another block, laid out anew."""
        for layer in range(self.layout.layers):
            held = self._tokens.of(layer)
            moved = geometry.layer_view(target, layer, 0, held)
            moved[...] = self._geometry.layer_view(source, layer, 0, held)

    # -- reading -------------------------------------------------------------------------

    def _current(self) -> Bytes:
        with self._lock:  # `relocate` changes the block
            return self._lease()

    def data(self) -> Bytes:
        """Return all bytes of the entry, with room for `max_context_length` tokens.

        In an elastic pool all pages of the entry are charged before, because to look at a byte
        commits its page. `trim` gives back those behind the tokens. To keep the entry from being
        evicted, `lease` is enough.

        Returns
        -------
        ndarray of uint8, shape (size_bytes,)
            Writable and zero-copy. It is a lease: the entry is not evicted while this array, or
            an array made from it, lives. A fork that is made meanwhile is a copy.

        Raises
        ------
        SharedTokensError
            The entry shares pages with its parent or with a fork.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.
        """
        while True:
            with self._lock:
                self._check_own("show all bytes")
                stripe = self._geometry.max_context_length * self._geometry.token_stride
                try:
                    root = self.pool.write_lease(self.block, None, 0, stripe)[0]
                except StaleBlockError:
                    raise self._gone() from None
                except PoolExhaustedError as shortage:
                    missing = shortage.requested
                else:
                    self._note_use()
                    return self._writer_root(root)
            self._make_room(missing)

    def _check_own(self, what: str) -> None:
        """Raise if any page that holds tokens is shared. The caller holds the lock."""
        if self.block.shares_pages:
            # Raises EntryRemovedError if the entry is gone: that is what the caller must know.
            self._lease()
            raise SharedTokensError(
                f"cannot {what} of session {self.session_id!r} for writing: it shares pages with "
                "its parent or a fork, which would change too; write the tokens into an entry of "
                "its own"
            )

    def _writer_root(self, root: Bytes) -> Bytes:
        """Return the root of all writeable views, which lives as long as one of them."""
        writer = None if self._writer is None else self._writer()
        if writer is None:
            # Of a memoryview: NumPy would take views of another array to be views of the root.
            writer = np.frombuffer(root.data, np.uint8)
            self._writer = weakref.ref(writer)
        return writer

    def key(self, layer: int, *, writeable: bool = False) -> NDArray[Any]:
        """Return the keys of one layer, without a copy. This is a lease.

        Parameters
        ----------
        layer : int
        writeable : bool, default False
            Whether tokens may be changed through the view. While a writeable view lives, a
            fork of the entry is a copy.

        Returns
        -------
        ndarray, shape (kv_heads, tokens, head_dim)
            Contiguous per head. It covers the tokens that this layer holds now; take a new
            view after an append.

        Raises
        ------
        InvalidArgumentError
            `writeable` is neither True nor False.
        LayerIndexError
            The layout has no such layer.
        SharedTokensError
            The view is to be writeable, and the entry shares pages with its parent or a fork.
        EntryRemovedError
            The entry was removed or evicted.
        """
        return self._view(self._check_layer(layer), 0, writeable)

    def value(self, layer: int, *, writeable: bool = False) -> NDArray[Any]:
        """Return the values of one layer, without a copy. This is a lease.

        Parameters
        ----------
        layer : int
        writeable : bool, default False
            Whether tokens may be changed through the view. While a writeable view lives, a
            fork of the entry is a copy.

        Returns
        -------
        ndarray, shape (kv_heads, tokens, head_dim)
            Contiguous per head. It covers the tokens that this layer holds now; take a new
            view after an append.

        Raises
        ------
        InvalidArgumentError
            `writeable` is neither True nor False.
        LayerIndexError
            The layout has no such layer.
        SharedTokensError
            The view is to be writeable, and the entry shares pages with its parent or a fork.
        EntryRemovedError
            The entry was removed or evicted.
        """
        return self._view(self._check_layer(layer), 1, writeable)

    def keys(self) -> NDArray[Any]:
        """Return the keys of all layers, without a copy. This is a lease.

        Returns
        -------
        ndarray, shape (layers, kv_heads, token_count, head_dim)
            Read-only; contiguous per head.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        return self._view(None, 0, writeable=False)

    def values(self) -> NDArray[Any]:
        """Return the values of all layers, without a copy. This is a lease.

        Returns
        -------
        ndarray, shape (layers, kv_heads, token_count, head_dim)
            Read-only; contiguous per head.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        return self._view(None, 1, writeable=False)

    def peek(self) -> NDArray[Any]:
        """Return keys and values of all layers for the keeper: a lease, and not a use.

        Returns
        -------
        ndarray, shape (2, layers, kv_heads, token_count, head_dim)
            The keys, and the values.

        Raises
        ------
        EntryRemovedError
            The entry was removed or evicted.
        """
        with self._lock:
            both = self._geometry.full_view(self._lease(), 0, self._tokens.complete)
        view: NDArray[Any] = both[:]
        view.setflags(write=False)
        return view

    def _view(self, layer: int | None, region: int, writeable: Any) -> NDArray[Any]:
        if writeable.__class__ is not bool:  # unlike nearly always
            check_flag("writeable", writeable)
        with self._lock:
            if writeable:
                self._check_own("show the tokens")
            geometry, tokens, root = self._geometry, self._tokens, self._lease()
            if writeable:
                root = self._writer_root(root)
            if layer is None:
                both = geometry.full_view(root, 0, tokens.complete)
            else:
                both = geometry.layer_view(root, layer, 0, tokens.of(layer))
        self._note_use()
        view: NDArray[Any] = both[region]
        view.setflags(write=writeable)
        return view

    # -- files ---------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokens that every layer holds to a file of safetensors; a use.

        The file has two tensors, ``keys`` and ``values``, of shape (layers, kv_heads, tokens,
        head_dim), and the layout and the session in its header. It is written as a whole or not
        at all. Needs ``kvpool[safetensors]``.

        Parameters
        ----------
        path : path
            A file that is there is replaced.

        Raises
        ------
        TokenFileError
            The file cannot be written.
        MissingExtraError
            The package safetensors is not installed.
        EntryRemovedError
            The entry was removed or evicted.
        """
        keys, values = self.keys(), self.values()
        count = min(keys.shape[2], values.shape[2])  # another thread may append in between
        notes = {"session": self.session_id, "layout": str(self.layout)}
        write_tokens(Path(path), (keys[:, :, :count], values[:, :, :count]), notes)

    def load(self, path: str | os.PathLike[str]) -> int:
        """Append the tokens of a file that `save` wrote.

        Needs ``kvpool[safetensors]``.

        Parameters
        ----------
        path : path

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        TokenFileError
            The file cannot be read, or has no keys and values.
        MissingExtraError
            The package safetensors is not installed.
        InvalidTokensError
            The tokens of the file do not fit the layout.
        LayerMismatchError
            Some layers hold more tokens than the others.
        ContextOverflowError
            The entry would hold more than `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        EntryRemovedError
            The entry was removed or evicted.
        """
        self._current()  # before the file is read: is the entry there, and of this process?
        return self.extend(*read_tokens(Path(path)))

    # -- checks --------------------------------------------------------------------------

    def _check_layer(self, layer: int) -> int:
        layers = self._geometry.layout.layers
        if layer.__class__ is int and 0 <= layer < layers:
            return layer  # as nearly always, without another call
        with contextlib.suppress(LayerIndexError):
            return whole_number("layer", layer, LayerIndexError, least=0, most=layers - 1)
        raise LayerIndexError(
            f"session {self.session_id!r} has no layer {layer!r}: it has {layers}"
        )

    def _check_count(self, count: int) -> int:
        with contextlib.suppress(InvalidTokensError):
            return whole_number("count", count, InvalidTokensError, least=1)
        raise InvalidTokensError(
            f"session {self.session_id!r} gets {count!r} tokens to append: "
            "the count must be a whole number of at least 1"
        )

    def _check_kept(self, token_count: int) -> int:
        held = self._tokens.complete
        with contextlib.suppress(InvalidTokensError):
            return whole_number("token_count", token_count, InvalidTokensError, least=0, most=held)
        # Raises EntryRemovedError if the entry is gone: that is what the caller must know.
        self._lease()
        raise InvalidTokensError(
            f"cannot truncate session {self.session_id!r} to {token_count!r} tokens: "
            f"it holds {held}"
        )
