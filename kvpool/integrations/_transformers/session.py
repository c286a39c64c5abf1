"""`PooledSession`: the entry of one session, leased, and its tokens as tensors."""

from __future__ import annotations

import contextlib
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, Lease, StagedTokens
from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
)
from kvpool.integrations._transformers import writers
from kvpool.integrations._transformers.pace import MEASURED_TOKENS, Pace
from kvpool.integrations._transformers.room import cost, rooms_for, with_room
from kvpool.integrations._transformers.tensors import (
    EntryTensors,
    as_tensor,
    check_states,
    dtype_name,
    is_held_as,
)
from kvpool.integrations._transformers.turn import Turn
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import Bytes

__all__ = ["PooledSession"]


class PooledSession:
    """The tokens of one session, for one thread at a time.

    The entry is looked for at once and made with the first tokens. It is leased from then on,
    so it is not evicted.

    Parameters
    ----------
    manager : KVCacheManager
    key : CacheKey
    layout : KVLayout
        Of one sequence. The entry of a batch has as many times the heads.
    max_context_length : int, optional
        Tokens that there may be; without it the entry grows for as long as the pool has room.
    ttl : float, optional
        Seconds; for a new entry.
    weights : int, optional
        Tells the weights of the model from those of others; None if the model is not known.
    turn : Turn, optional
        The session as it was opened with its tokens.

    Attributes
    ----------
    key : CacheKey
    entry : KVCacheEntry or None
        None until there are tokens.
    rows : int
        Sequences in the batch.

    Raises
    ------
    CacheInUseError
        The session is open in another cache.
    EntryKindError
        The key has an entry of another layout, or tokens of a model with other weights, or tokens
        that the manager knows.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        key: CacheKey,
        layout: KVLayout,
        max_context_length: int | None,
        ttl: float | None,
        weights: int | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.manager = manager
        self.key = key
        self.layout = layout
        self.max_context_length = max_context_length
        self.ttl = ttl
        self.weights = weights
        self.rows = 1
        self._turn = turn
        self._is_private = False  # whether the key is this object's own
        self.entry: KVCacheEntry | None = None
        self._dtype = getattr(torch, str(layout.dtype))
        self._pace = Pace(layout.layers, manager.note_compute)
        self._root: Bytes | Lease | None = None  # the lease
        self._tensors: EntryTensors | None = None  # over all of the root
        if turn is None:
            self._find()
        else:
            self._take(turn.entry, 1)

    @property
    def token_count(self) -> int:
        """Tokens that every layer holds."""
        return 0 if self.entry is None else self.entry.token_count

    def held(self, layer: int) -> int:
        """Return the tokens that a layer holds."""
        if self.entry is None:
            return 0
        if self._root is None:
            self.entry.lease()  # it raises where the entry went while there was no lease
        return self.entry.held(layer)

    # -- writing -------------------------------------------------------------------------

    def append(
        self, layer: int, keys: Any, values: Any, window: int | None = None
    ) -> tuple[Any, Any]:
        """Append the next tokens of one layer; return the keys and values to attend to.

        Parameters
        ----------
        layer : int
        keys, values : Tensor, shape (batch, kv_heads, tokens, head_dim)
        window : int, optional
            Tokens that each one attends to, with itself.

        Returns
        -------
        keys, values : Tensor
            Over the bytes of the entry: of all tokens held, or of those in the window of the
            first new one and the later ones.

        Raises
        ------
        PoolExhaustedError, ContextOverflowError
            There is no room; the session is as it was.
        InvalidTokensError, LayerMismatchError, EntryRemovedError, EntryExistsError
        """
        entry = self._entry_for(keys, values)
        layout = self.layout
        shape = keys.shape  # PyTorch makes a new object for each look at it
        count = shape[-2]
        # An append costs some microseconds, so what is right passes in one look.
        if not (
            shape == values.shape == (self.rows, layout.kv_heads, count, layout.head_dim)
            and keys.dtype == values.dtype == self._dtype
            and keys.is_cpu
            and values.is_cpu
        ):
            # Those of autocast pass the check; `copy_` below casts them.
            check_states(entry.layout, self.rows, keys, values, entry.session_id)
        if keys.requires_grad or values.requires_grad:
            keys, values = keys.detach(), values.detach()  # no gradient flows through a pool
        if count >= MEASURED_TOKENS and self.rows == 1:
            self._pace.passed(layer, count)

        try:
            return self._write(entry, layer, keys, values, count, window)
        except ContextOverflowError:
            self._with_room(self.held(layer) + count, self._grow)
            return self._write(entry, layer, keys, values, count, window)

    def _write(
        self,
        entry: KVCacheEntry,
        layer: int,
        keys: Any,
        values: Any,
        count: int,
        window: int | None,
    ) -> tuple[Any, Any]:
        with entry.writing(layer, count) as place:
            start = place.start
            tensors = self._tensors_over(place.root, place.geometry)
            new_keys, new_values = tensors.tokens(layer, start, count)
            new_keys.copy_(keys)
            new_values.copy_(values)
            first = 0 if window is None else max(start - window + 1, 0)
            return tensors.tokens(layer, first, start + count - first)

    def _tensors_over(self, root: Bytes, geometry: EntryGeometry) -> EntryTensors:
        tensors = self._tensors
        if tensors is None or tensors.root is not root or tensors.geometry is not geometry:
            self._root = root
            self._tensors = tensors = EntryTensors(root, geometry, self.rows)
        return tensors

    # -- steps of many sessions ----------------------------------------------------------

    @property
    def is_leased(self) -> bool:
        """Whether this object keeps the entry from being evicted."""
        return self._root is not None

    def lease(self) -> Lease | None:
        """Return a lease of the entry, if there is an entry and this object has none.

        Raises
        ------
        EntryRemovedError
            The entry went while there was no lease.
        """
        return None if self.entry is None or self.is_leased else self.entry.lease()

    def stage(self, count: int) -> tuple[StagedTokens, EntryTensors]:
        """Take the room for the next tokens of all layers; `extend_staged` counts them.

        Returns
        -------
        staged : StagedTokens
        tensors : EntryTensors
            Over the same bytes.

        Raises
        ------
        PoolExhaustedError, ContextOverflowError
            There is no room; the session is as it was.
        LayerMismatchError
            A step before was not finished.
        InvalidArgumentError
            It holds several sequences.
        EntryRemovedError, EntryExistsError
        """
        if self.rows != 1:
            raise InvalidArgumentError(
                f"session {str(self.key)!r} holds {self.rows} sequences, which is a batch by itself"
            )
        entry = self.entry or self._with_room(count, lambda room: self._create(1, room))
        try:
            staged = entry.stage(count)
        except ContextOverflowError:
            self._with_room(entry.token_count + count, self._grow)
            staged = entry.stage(count)
        return staged, self._tensors_over(staged.root, staged.geometry)

    def extend_staged(self, staged: StagedTokens) -> None:
        """Count the tokens that were written where `stage` said.

        Raises
        ------
        EntryRemovedError, LayerMismatchError
            The session was removed, moved or written to meanwhile.
        """
        if self.entry is not None:
            self.entry.extend_staged(staged)

    def unstage(self) -> None:
        """Give up what `stage` took; nothing else refers to it any more."""
        entry = self.entry
        if entry is None:
            return
        with self._unleased():
            entry.unstage()

    @contextlib.contextmanager
    def _unleased(self) -> Iterator[None]:
        """Pin the entry instead of leasing it, which would keep pages that are to be given back."""
        self.manager.pin(self.key)
        try:
            self.release()
            yield
            if self.entry is not None:
                self._root = self.entry.lease()
        finally:
            self.manager.unpin(self.key)

    # -- as a whole ----------------------------------------------------------------------

    def make(self, rows: int, dtype: Any, tokens: int) -> KVCacheEntry:
        """Make the entry of a batch, instead of one without tokens if there is one.

        Parameters
        ----------
        rows : int
        dtype : torch.dtype
        tokens : int
            To have room for, at least.

        Raises
        ------
        InvalidTokensError
            The dtype is not the layout's.
        EntryExistsError, PoolExhaustedError
        """
        if not is_held_as(dtype, self.layout.dtype):
            raise InvalidTokensError(
                f"keys for session {str(self.key)!r} are {dtype_name(dtype)}, "
                f"the layout is {self.layout.dtype}"
            )
        if self.entry is not None:
            self.release()
            turn = self._open_turn()
            if turn is None:
                self.manager.remove_cache_entry(self.key)
            else:
                turn.close(self.manager)
                self._take_own_key()
            self.entry = None
        return self._with_room(tokens, lambda room: self._create(rows, room))

    def truncate(self, token_count: int) -> None:
        """Keep the first tokens, at most those that all layers hold."""
        entry = self.entry
        if entry is None:
            return
        kept = min(token_count, entry.token_count)
        entry.lease()  # it raises where the entry is gone
        with self._unleased():
            entry.truncate(kept)

    # -- rows of a batch -----------------------------------------------------------------

    def reorder(self, order: Any) -> None:
        """Let row i hold what row ``order[i]`` held: in place, but for what a fork shares.

        Parameters
        ----------
        order : Tensor of int64, shape (rows,)
        """
        if not self.token_count:
            return
        moved = (order != torch.arange(self.rows)).nonzero().flatten()
        if not len(moved):
            return
        if self.entry is not None and self.entry.is_shared:
            self.rebuild(lambda _rows: order)
            return
        for layer in range(self.layout.layers):
            for states in self.view(layer, writeable=True):
                states.index_copy_(0, moved, states.index_select(0, order[moved]))

    def rebuild(self, choose: Callable[[Any], Any]) -> None:
        """Make the session a batch of other rows; without tokens there is nothing to do.

        Room is made before the old entry goes.

        Parameters
        ----------
        choose : callable
            Is given the numbers of the rows, and returns for each new row the one to copy.

        Raises
        ------
        PoolExhaustedError
            Both do not fit; the session is as it was, unless another thread took the room
            that was made: then it is gone.
        """
        old = self.entry
        if old is None or not old.token_count:
            return
        self.truncate(old.token_count)  # an interrupted step leaves some layers ahead
        states = [self.view(layer) for layer in range(self.layout.layers)]  # leases
        source_rows = choose(torch.arange(self.rows))
        rows, room = len(source_rows), old.max_context_length
        layout = self._batch_layout(rows)
        self.manager.evict_lru_entries(cost(self.manager.pool, layout, room, old.token_count))
        turn, key = self._open_turn(), self.key
        if turn is None:
            self.manager.remove_cache_entry(key)
        else:
            self._take_own_key()
        self.release()
        try:
            self._create(rows, room)
        except BaseException:
            if turn is not None:
                self.key, self._is_private = key, False
            raise
        for layer, (keys, values) in enumerate(states):
            chosen = (states.index_select(0, source_rows) for states in (keys, values))
            self.append(layer, *chosen)
        del states, keys, values
        if turn is not None:
            turn.close(self.manager)

    # -- the entry -----------------------------------------------------------------------

    def view(self, layer: int, *, writeable: bool = False) -> tuple[Any, Any]:
        """Return the keys and values that a layer holds; there is an entry."""
        if self.entry is None:
            raise EntryNotFoundError(f"no entry for {self.key!s}")
        keys, values = (
            get(layer, writeable=writeable) for get in (self.entry.key, self.entry.value)
        )
        return as_tensor(keys, self.rows), as_tensor(values, self.rows)

    def release(self) -> None:
        """Give the lease back; it is taken again with the next tokens."""
        self._root = self._tensors = None

    def close(self, output_ids: Any = None) -> None:
        """Close the turn, with the tokens that are given, and let go of the entry.

        Raises
        ------
        InvalidTokensError
            The tokens are not those of the session; it stays open.
        """
        if self._is_private:
            self.release()
            self.manager.remove_cache_entry(self.key)
        elif self._turn is not None:
            self._turn.close(self.manager, output_ids)
            self.release()

    @property
    def has_turn(self) -> bool:
        """Whether the session was opened with its tokens."""
        return self._turn is not None

    def _find(self) -> None:
        if self.manager.is_open(self.key):
            raise CacheInUseError(
                f"session {self.key!s} is open in another cache: close that one first"
            )
        if self.manager.get_session_tokens(self.key) is not None:
            raise EntryKindError(
                f"the tokens of {self.key!s} are known, so that it can only go on with "
                "PooledCache.for_tokens, which compares them with yours"
            )
        found = self.manager.get_cache_entry(self.key)
        if found is None:
            return
        if not isinstance(found, KVCacheEntry):
            raise EntryKindError(f"the entry for {self.key!s} is raw: it has no layout")
        rows, rest = divmod(found.layout.kv_heads, self.layout.kv_heads)
        if rest or found.layout != self._batch_layout(rows):
            raise EntryKindError(
                f"the entry for {self.key!s} has the layout {found.layout}, not {self.layout}"
            )
        found.truncate(found.token_count)  # an interrupted step leaves some layers ahead
        if writers.differ(found, self.weights):
            raise EntryKindError(
                f"the {found.token_count} tokens of {self.key!s} were computed by a model with "
                "other weights: name the sessions of each model apart, for example by a namespace "
                "for each, or remove the entry first"
            )
        if not found.token_count or writers.of(found) is None:
            writers.note(found, self.weights)
        self._take(found, rows)

    def _take(self, entry: KVCacheEntry, rows: int) -> None:
        self.entry, self.rows, self._root = entry, rows, entry.lease()

    def _open_turn(self) -> Turn | None:
        """Return the turn, unless it was closed for a batch."""
        return self._turn if self._turn is not None and self._turn.is_open else None

    def _take_own_key(self) -> None:
        """Take a key that ends with this object: for a batch that takes the place of a turn.

        The tokens of a turn are of one sequence, which others may begin with. So it is closed, and
        stays under its key.
        """
        self.key = CacheKey(self.key.namespace, f"{self.key.id}~{uuid.uuid4().hex}")
        self._is_private = True
        weakref.finalize(self, self.manager.remove_later, self.key).atexit = False

    def _entry_for(self, keys: Any, values: Any) -> KVCacheEntry:
        entry, rows = self.entry, keys.shape[0]
        if entry is not None and rows == self.rows:
            return entry
        if entry is not None and entry.token_count:
            if self.rows == 1 and self._open_turn() is not None:  # several answers to one prompt
                self.rebuild(lambda row: row.repeat_interleave(rows))
            return self.entry or entry
        check_states(self._batch_layout(rows), rows, keys, values, str(self.key))
        return self.make(rows, keys.dtype, keys.shape[-2])

    def _create(self, rows: int, room: int) -> KVCacheEntry:
        entry = self.manager.create_cache_entry(
            self.key, room, layout=self._batch_layout(rows), ttl=self.ttl
        )
        writers.note(entry, self.weights)
        self._take(entry, rows)
        return entry

    def _batch_layout(self, rows: int) -> KVLayout:
        one = self.layout
        heads = max(rows, 1) * one.kv_heads
        return KVLayout(one.layers, heads, one.head_dim, one.dtype, one.packing)

    def _with_room(self, tokens: int, act: Callable[[int], KVCacheEntry]) -> KVCacheEntry:
        is_sparse = self.manager.pool.is_elastic
        rooms = rooms_for(tokens, self.max_context_length, str(self.key), is_sparse=is_sparse)
        return with_room(rooms, act)

    def _grow(self, room: int) -> KVCacheEntry:
        """Move the entry to where it has more room."""
        layout = self._batch_layout(self.rows)
        grown = self.manager.get_or_create_cache(self.key, room, layout=layout)
        if grown is not self.entry:
            raise EntryRemovedError(f"the entry of session {str(self.key)!r} was removed")
        return grown
