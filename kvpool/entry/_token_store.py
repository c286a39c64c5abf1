"""`TokenStore`: the tokens of one entry: where they lie, and how they get there."""

from __future__ import annotations

import contextlib
import operator
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from kvpool.entry._pool_entry import PoolEntry
from kvpool.entry._token_count import TokenCount
from kvpool.errors import (
    ContextOverflowError,
    EntryError,
    InvalidTokensError,
    LayerIndexError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.pool import Bytes, MemoryBlock, MemoryPool

__all__ = ["RoomMaker", "TokenStore", "TokenWriter"]

TokenWriter = Callable[[Bytes, EntryGeometry, int], object]
"""Writes tokens into the bytes of an entry, laid out so, from a position on."""


class RoomMaker(Protocol):
    """Who can evict other entries. Called without a lock of the entry."""

    def make_room(self, nbytes: int) -> object:
        """Evict others until `nbytes` may be committed, or raise PoolExhaustedError."""


class TokenStore(PoolEntry):
    """A block with a KV layout, and the count of the tokens in it.

    What a `KVCacheEntry` is made of; its methods are documented there.

    Parameters
    ----------
    pool, block, session_id, clock, on_use
        As for `PoolEntry`.
    geometry : EntryGeometry
    room : RoomMaker, optional
        Without one, a write that lacks pages raises.
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
        room: RoomMaker | None = None,
    ) -> None:
        super().__init__(pool, block, session_id, clock, on_use)
        self._room = room
        self._geometry = geometry
        self._tokens = TokenCount(geometry.layout.layers)
        self._lock = threading.Lock()

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
    def committed_bytes(self) -> int:
        """Bytes that the pool charges for this entry; what a fork shares is its base's."""
        return self.block.charged

    @property
    def is_shared(self) -> bool:
        """Whether tokens of this entry lie in pages that a fork, or whoever it forks, shows.

        They must not be changed in place then. Appending is always safe.
        """
        return self.block.base is not None or self.block.lent > 0

    def held(self, layer: int) -> int:
        """Return the tokens that one layer holds.

        Raises
        ------
        LayerIndexError
        """
        self._check_layer(layer)
        return self._tokens.of(layer)

    # -- writing -------------------------------------------------------------------------

    def _write(self, layer: int | None, count: int, put: TokenWriter) -> int:
        """Write tokens of a layer, or of all, once there are pages for them."""
        while True:
            try:
                with self._lock:
                    return self._write_now(layer, count, put)
            except PoolExhaustedError as shortage:
                if self._room is None:
                    raise
                missing = shortage.requested
            lease = self._lease()  # nobody goes for their own sake
            try:
                self._room.make_room(missing)
            finally:
                del lease

    def _write_now(self, layer: int | None, count: int, put: TokenWriter) -> int:
        geometry = self._geometry
        start = self._next_position(count, layer)
        has_new_pages = self._commit(layer, start, start + count)
        root = self._lease()
        try:
            put(root, geometry, start)
            self._note_use()
        finally:
            if has_new_pages:
                self.pool.settle(self.block)
            del root  # a traceback that someone keeps must not keep the lease
        return self._tokens.extend(count) if layer is None else self._tokens.append(layer, count)

    def _commit(self, layer: int | None, first: int, last: int) -> bool:
        """See to it that tokens may be written; return whether that may take new pages."""
        block, runs, geometry = self.block, self.block.runs, self._geometry
        if runs is None:
            return False
        start, end = first * geometry.token_stride, last * geometry.token_stride
        group = None if layer is None else geometry.group(layer)
        if start >= block.lent and runs.has(group, start, end):
            return False  # as for most tokens
        groups = range(geometry.groups) if group is None else (group,)
        with self._removal_noted():
            self.pool.commit(block, groups, start, end)
        return True

    def _trim(self) -> None:
        with self._removal_noted():
            self.pool.trim(self.block, self._tokens.longest * self._geometry.token_stride)

    def _take(self, tokens: NDArray[Any], shown: int) -> None:
        """Hold these tokens, of which the block shows the first already."""
        count = tokens.shape[-2]
        self._tokens.extend(count)
        if shown < count:
            self._commit(None, shown, count)
            target = self._geometry.full_view(self._lease(), shown, count - shown)
            target[...] = tokens[..., shown:, :]
            self.pool.settle(self.block)

    @contextlib.contextmanager
    def _removal_noted(self) -> Iterator[None]:
        try:
            yield
        except StaleBlockError:
            raise self._gone() from None

    # -- reading -------------------------------------------------------------------------

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

    # -- checks --------------------------------------------------------------------------

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
