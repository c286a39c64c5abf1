"""`Turn`: a session of known tokens, from `open_session` to `close_session`."""

from __future__ import annotations

import contextlib
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidArgumentError, InvalidTokensError, KVPoolError, PoolExhaustedError
from kvpool.integrations._transformers.arguments import CacheParts
from kvpool.integrations._transformers.room import ROOM_STEP, SPARSE_ROOM
from kvpool.manager import NAMELESS, KVCacheManager
from kvpool.prefix import token_bytes

__all__ = ["Turn", "close_later", "model_id_of", "open_in_room", "row_of"]

Tokens = NDArray[np.int64]
T = TypeVar("T")

# Turns whose caches are gone and were not closed. The next turn of their manager closes them: a
# finalizer may run in the middle of any call, and must not wait for a lock.
_left: weakref.WeakKeyDictionary[KVCacheManager, deque[Turn]] = weakref.WeakKeyDictionary()


class Turn:
    """An open session, and the tokens that it was opened with.

    Parameters
    ----------
    entry : KVCacheEntry
        Of `open_session`. It must not refer to the manager, so that no cycle keeps the pool.
    tokens : ndarray of int64

    Attributes
    ----------
    entry, tokens
    is_open : bool
    """

    def __init__(self, entry: KVCacheEntry, tokens: Tokens) -> None:
        self.entry = entry
        self.tokens = tokens
        self.is_open = True

    def close(self, manager: KVCacheManager, output_ids: Any = None) -> None:
        """Close the session with its tokens; once closed, nothing happens.

        Parameters
        ----------
        manager : KVCacheManager
        output_ids : Tensor or sequence of int, optional
            All tokens of the session. Without them only the tokens that it was opened with are
            kept.

        Raises
        ------
        InvalidTokensError
            They do not begin with the tokens that the session was opened with.
        EntryRemovedError, PoolClosedError
        """
        if not self.is_open:
            return
        if output_ids is None:
            # What was dropped may have been written again, with other tokens.
            tokens = self.tokens[: self.entry.steady_count]
        else:
            tokens = row_of(output_ids)
            self._check(tokens)
        manager.close_session(self.entry, tokens)
        self.is_open = False

    def _check(self, tokens: Tokens) -> None:
        count = min(len(self.tokens), self.entry.steady_count)
        if len(tokens) < count:
            raise InvalidTokensError(
                f"session {self.entry.session_id!r} was opened with {len(self.tokens)} tokens, and "
                f"is closed with {len(tokens)}: pass all of them, the prompt as well"
            )
        (unlike,) = np.nonzero(tokens[:count] != self.tokens[:count])
        if len(unlike):
            at = int(unlike[0])
            raise InvalidTokensError(
                f"session {self.entry.session_id!r} was opened with token {self.tokens[at]} at "
                f"position {at}, and is closed with {tokens[at]} there"
            )


def open_in_room(
    begin: Callable[..., T],
    manager: KVCacheManager,
    tokens: Tokens,
    key: CacheKey | None,
    *,
    max_context_length: int | None,
    **options: Any,
) -> tuple[CacheKey, T]:
    """Open a session with the tokens that are there, in the best room that it can have.

    Parameters
    ----------
    begin : callable
        `KVCacheManager.open_session` or `KVCacheManager.begin_session`, of the manager.
    manager : KVCacheManager
    tokens : ndarray of int64
    key : CacheKey or None
        None for a session without a name.
    max_context_length : int or None
    **options
        Of `begin`.

    Returns
    -------
    key : CacheKey
    begun
        What `begin` returned.
    """
    _close_left(manager)
    # In this namespace a session is without a name: the next one may go on from it in place.
    named = CacheKey(NAMELESS, uuid.uuid4().hex) if key is None else key
    *ample, least = _rooms(manager, len(tokens), max_context_length)
    for room in ample:
        try:
            return named, begin(tokens, named, max_context_length=room, **options)
        except PoolExhaustedError:
            continue
    return named, begin(tokens, named, max_context_length=least, **options)


def _rooms(manager: KVCacheManager, count: int, limit: int | None) -> list[int | None]:
    """Return the rooms to try for a session, the best one first; None is what the manager takes."""
    if limit is not None:
        return [limit]
    least = (count // ROOM_STEP + 1) * ROOM_STEP
    if manager.pool.is_elastic and count < SPARSE_ROOM:
        return [SPARSE_ROOM, None, least]  # room costs only addresses, and the session never moves
    return [None, least]


def close_later(owner: object, manager: KVCacheManager, turn: Turn) -> None:
    """Have a turn closed by the next one of its manager after an object is gone, unless it is."""
    left = _left[manager]
    weakref.finalize(owner, left.append, turn).atexit = False


def _close_left(manager: KVCacheManager) -> None:
    left = _left.setdefault(manager, deque())
    with contextlib.suppress(IndexError):  # empty, maybe by another thread
        while True:
            turn = left.popleft()
            with contextlib.suppress(KVPoolError):  # its entry was removed or has expired
                turn.close(manager)


def model_id_of(model_id: str | None, parts: CacheParts) -> str:
    """Return the id of a model: as given, or from its weights.

    Raises
    ------
    InvalidArgumentError
        Neither is known.
    """
    if model_id is not None:
        return model_id
    if parts.weights is None:
        raise InvalidArgumentError(
            "for_tokens needs to know which model computes the tokens: pass model=, or model_id= "
            "with a name for its weights, adapter and revision"
        )
    return f"weights-{parts.weights:016x}"


def row_of(input_ids: Any) -> Tokens:
    """Return the tokens of one sequence as an array.

    Raises
    ------
    InvalidTokensError
        They are of several sequences, or are not whole numbers.
    """
    ids = input_ids
    if isinstance(ids, torch.Tensor):
        ids = ids.detach().cpu().numpy()
    shape: tuple[int, ...] = ()
    with contextlib.suppress(TypeError, ValueError):  # `token_bytes` says what they are
        shape = np.shape(ids)
    if len(shape) == 2 and shape[0] == 1:
        ids = ids[0]
    elif len(shape) > 1:
        raise InvalidTokensError(
            f"token ids must be of one sequence, with the shape (tokens,) or (1, tokens), not "
            f"{shape}: a batch is a session of its own, see PooledCache(manager, session)"
        )
    return np.frombuffer(token_bytes(ids), np.int64)
