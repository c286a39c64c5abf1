"""`PooledCache`: a session of the pool as the cache of a model."""

from __future__ import annotations

import contextlib
import copy
import uuid
import weakref
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    EntryExistsError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
    LayerIndexError,
    PoolClosedError,
)
from kvpool.integrations._transformers import writers
from kvpool.integrations._transformers.arguments import CacheParts, cache_parts, whole_number
from kvpool.integrations._transformers.layers import EmptyLayer, PooledLayer
from kvpool.integrations._transformers.opening import OpeningCache
from kvpool.integrations._transformers.session import PooledSession
from kvpool.integrations._transformers.turn import (
    Turn,
    close_later,
    model_id_of,
    open_in_room,
    row_of,
)
from kvpool.manager import KVCacheManager

__all__ = ["PooledCache"]


class PooledCache(Cache):
    """A session of a `kvpool.KVCacheManager` as the cache of a model of transformers.

    `for_tokens` makes the cache of a conversation: it compares the prompt with what the pool holds.
    The constructor makes one by the name of a session.

    New tokens are written in place behind those that the session holds, and the model attends
    to tensors of shape ``(batch, kv_heads, tokens, head_dim)`` over the memory of the pool. No
    token is copied, however long the context is.

    Parameters
    ----------
    manager : KVCacheManager
    session : str, int or CacheKey
        The name of the session. If the manager has an entry for it, the cache goes on from its
        tokens. Otherwise an entry is made with the first tokens.
    model : PreTrainedModel, optional
        The layout, and what each layer keeps, are measured: the first time, one token goes
        through the model. A session that a model with other weights wrote is refused.
    config : PreTrainedConfig, optional
        Used if there is no `model`. It tells the layout, as far as it says so, and which layers
        attend to a window. Without both, all layers attend to all tokens, and the layout is the
        manager's.
    dtype : torch.dtype or str, optional
        Of keys and values. [default: the manager's layout, else the model or `config`]
    max_context_length : int, optional
        Tokens that the session may hold; the entry is reserved for all of them at once.
        [default: the entry grows to twice its tokens, or to what is left of the pool]
    ttl : float, optional
        Seconds without a use until the entry of a new session expires. [default: the manager's]
    namespace : str, default "transformers"
        Namespace of the key, if `session` is not a `CacheKey`. Sessions of different models need
        different names or namespaces.

    Raises
    ------
    InvalidLayoutError
        There is no layout, two of them differ, or a layout cannot hold what the model keeps. The
        text names the layer and what was found.
    EntryKindError
        The session has an entry of another layout, or tokens of a model with other weights, or
        `for_tokens` made it.
    CacheInUseError
        The session is open in another cache.

    Notes
    -----
    *Tokens.* The next tokens must be those that follow what the session holds: keys and values do
    not tell which tokens they are of, so a cache that is made by a name alone cannot check that.
    `for_tokens` does.

    *Lease.* The session is not evicted from its first tokens until `release`, the end of a
    ``with`` block, or the end of this object. Make a cache for each turn, so that sessions that
    wait can be evicted.

    *Errors.* If a step fails or is interrupted, for example by a full pool, the session holds the
    tokens from before the step. ``crop(0)`` or a new cache drops what some layers already took.

    *Batches.* All sequences of a batch are one session.

    *Threads.* One cache, and one session, belongs to one thread at a time. Any number of threads
    share a manager.

    *Autocast.* Keys and values of another dtype than the layout's are cast to it. Without
    autocast they are refused.

    *Compilation.* `torch.compile` breaks the graph of a model where it calls the cache.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        session: str | int | CacheKey,
        *,
        model: Any = None,
        config: Any = None,
        dtype: Any = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        namespace: str = "transformers",
    ) -> None:
        parts = cache_parts(manager, model, config, dtype)
        key = _key_of(session, namespace)
        self._begin(manager, parts, key, max_context_length, ttl, namespace)

    def _begin(
        self,
        manager: KVCacheManager,
        parts: CacheParts,
        key: CacheKey,
        max_context_length: int | None,
        ttl: float | None,
        namespace: str,
        turn: Turn | None = None,
    ) -> None:
        """Make this the cache of a session; of one that is open if there is a turn."""
        self._layout, self._kinds, self._weights = parts
        self._manager = manager
        self._limit = max_context_length
        self._namespace = namespace
        super().__init__(layers=self._open(key, ttl, turn))

    @classmethod
    def for_model(
        cls, manager: KVCacheManager, model: Any, session: str | int | CacheKey, **options: Any
    ) -> Self:
        """Return the cache of a session for a model, whose layout is measured.

        Parameters
        ----------
        manager : KVCacheManager
        model : PreTrainedModel
            The first time, one token goes through it.
        session : str, int or CacheKey
            The name of the session.
        **options
            Further parameters of `PooledCache`, for example ``max_context_length``.

        Raises
        ------
        InvalidLayoutError
            A layout cannot hold what the model keeps.
        EntryKindError
            The session has an entry of another layout, or tokens of a model with other weights, or
            `for_tokens` made it.
        CacheInUseError
            The session is open in another cache.
        """
        return cls(manager, session, model=model, **options)

    @classmethod
    def for_tokens(
        cls,
        manager: KVCacheManager,
        input_ids: Any,
        session: str | int | CacheKey | None = None,
        *,
        model: Any = None,
        model_id: str | None = None,
        salt: str = "",
        config: Any = None,
        dtype: Any = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        min_left: int = 1,
        timeout: float | None = None,
        namespace: str = "transformers",
    ) -> Self:
        """Return a cache that holds the first of some tokens already, as many as the pool has.

        ``generate(input_ids, cache=cache)`` then computes the others, whatever was said
        before: an edited history is cut at the first token that differs, and tokens that any
        other session of the same model holds are not computed again.

        Parameters
        ----------
        manager : KVCacheManager
        input_ids : Tensor of shape (1, tokens) or (tokens,), or sequence of int
            All tokens of the prompt, as ``generate`` gets them.
        session : str, int or CacheKey, optional
            The name of a session, whose earlier turns are continued. Without one, the tokens that
            are computed serve any session.
        model : PreTrainedModel, optional
            The layout and the weights are measured: the first time, one token goes through it.
        model_id : str, optional
            Names the weights, adapter and revision: sessions with another one share nothing.
            [default: a hash of samples of the weights of `model`]
        salt : str, default ""
            Sessions with another one share nothing: one for each tenant, or for each image of a
            prompt.
        config : PreTrainedConfig, optional
            Used if there is no `model`, see `PooledCache`.
        dtype : torch.dtype or str, optional
            Of keys and values. [default: the manager's layout, else the model or `config`]
        max_context_length : int, optional
            Tokens that the session may hold. [default: the entry grows]
        ttl : float, optional
            Seconds without a use until the session expires. [default: the manager's]
        min_left : int, default 1
            How many of the last tokens are left to compute at least. ``generate`` needs the logits
            of the last one.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.
        namespace : str, default "transformers"
            Namespace of the key, if `session` is not a `CacheKey`.

        Raises
        ------
        CacheInUseError
            The session is open in another cache.
        InvalidTokensError
            `input_ids` are not whole numbers, or are those of several sequences, or `min_left` is
            not a whole number of at least 0.
        InvalidArgumentError
            There is neither a `model` nor a `model_id`, or `salt` is not a str.
        EntryExistsError
            The session was made otherwise, and its tokens are not known.
        ContextOverflowError
            There are more than `max_context_length` tokens.
        PoolExhaustedError
            The tokens do not fit.
        InvalidLayoutError
            There is no layout, or it cannot hold what the model keeps.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.

        Notes
        -----
        The session is *open* until `close`, the end of a ``with`` block, or the end of this object:
        it is not evicted, and no other cache may have it. ``close(output_ids)`` keeps the tokens
        that were generated for the next turn; the other ways keep those of the prompt.

        The tokens alone tell what is computed. So prompts with padding, or with an embedding that
        is not that of a token, need a `salt` for all that is not in `input_ids`.
        """
        parts = cache_parts(manager, model, config, dtype)
        tokens = row_of(input_ids)
        key, opened = open_in_room(
            manager.open_session,
            manager,
            tokens,
            None if session is None else _key_of(session, namespace),
            max_context_length=max_context_length,
            model_id=model_id_of(model_id, parts),
            salt=salt,
            layout=parts.layout,
            ttl=ttl,
            min_left=min_left,
            timeout=timeout,
        )
        options = max_context_length, ttl, namespace
        return cls._of_turn(manager, parts, key, options, tokens, opened.entry)

    @classmethod
    def begin_for_tokens(
        cls,
        manager: KVCacheManager,
        input_ids: Any,
        session: str | int | CacheKey | None = None,
        *,
        model: Any = None,
        model_id: str | None = None,
        salt: str = "",
        config: Any = None,
        dtype: Any = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        min_left: int = 1,
        timeout: float | None = None,
        namespace: str = "transformers",
    ) -> OpeningCache[Self]:
        """Begin what `for_tokens` does, and load from tiers in the background.

        The call returns as soon as the session begins with what the pool holds. The thread is free
        meanwhile, for example to compute another session.

        Parameters
        ----------
        manager, input_ids, session, model, model_id, salt, config, dtype, max_context_length, ttl
            See `for_tokens`.
        min_left, timeout, namespace
            See `for_tokens`.

        Returns
        -------
        OpeningCache
            Its `result` or `aresult` waits for the load, and returns the cache. Until then the
            session is open: it is not evicted, and no other cache may have it.

        Raises
        ------
        CacheInUseError
            The session is open in another cache.
        InvalidTokensError
            `input_ids` are not whole numbers, or are those of several sequences, or `min_left` is
            not a whole number of at least 0.
        InvalidArgumentError
            There is neither a `model` nor a `model_id`, or `salt` is not a str.
        EntryExistsError
            The session was made otherwise, and its tokens are not known.
        ContextOverflowError
            There are more than `max_context_length` tokens.
        PoolExhaustedError
            The tokens do not fit.
        InvalidLayoutError
            There is no layout, or it cannot hold what the model keeps.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        """
        parts = cache_parts(manager, model, config, dtype)
        tokens = row_of(input_ids)
        key, opening = open_in_room(
            manager.begin_session,
            manager,
            tokens,
            None if session is None else _key_of(session, namespace),
            max_context_length=max_context_length,
            model_id=model_id_of(model_id, parts),
            salt=salt,
            layout=parts.layout,
            ttl=ttl,
            min_left=min_left,
            timeout=timeout,
        )
        options = max_context_length, ttl, namespace
        return OpeningCache(opening, partial(cls._of_turn, manager, parts, key, options, tokens))

    @classmethod
    def _of_turn(
        cls,
        manager: KVCacheManager,
        parts: CacheParts,
        key: CacheKey,
        options: tuple[int | None, float | None, str],
        tokens: NDArray[np.int64],
        entry: KVCacheEntry,
    ) -> Self:
        """Return the cache of a session that is open; on any error the session is closed."""
        cache, turn = cls.__new__(cls), Turn(entry, tokens)
        try:
            cls._begin(cache, manager, parts, key, *options, turn)
        except BaseException:
            turn.close(manager)
            raise
        close_later(cache, manager, turn)
        return cache

    # -- the session ---------------------------------------------------------------------

    def fork(self, session: str | int | CacheKey, *, ttl: float | None = None) -> Self:
        """Return the cache of a new session that begins with the tokens of this one.

        Tokens that are appended to one session are not seen by the other.

        Parameters
        ----------
        session : str, int or CacheKey
            A name that has no entry yet.
        ttl : float, optional
            Seconds without a use until the entry of the fork expires.

        Raises
        ------
        EntryExistsError
            The name has an entry.
        PoolExhaustedError
            The fork does not fit.

        Notes
        -----
        Atomic: on any error nothing has changed.
        """
        key = _key_of(session, self._namespace)
        if key in self._manager:
            raise EntryExistsError(f"{key!s} has an entry already")
        if self._session.entry is not None:
            self._session.truncate(self._session.token_count)
            child = self._manager.fork_cache_entry(self.key, key, ttl=ttl)
            writers.note(child, writers.of(self._session.entry))
            lease = child.lease()
        else:
            lease = None
        forked = copy.copy(self)
        forked.layers = PooledCache._open(forked, key, ttl)
        del lease  # held until the fork has its own
        return forked

    @property
    def key(self) -> CacheKey:
        """Key of the session."""
        return self._session.key

    @property
    def parts(self) -> tuple[PooledSession, CacheParts]:
        """The session in the pool, and what the cache is made of, for `PooledBatch`."""
        return self._session, CacheParts(self._layout, self._kinds, self._weights)

    def close(self, output_ids: Any = None) -> None:
        """Close a session that `for_tokens` opened, and keep its tokens for the next turns.

        Parameters
        ----------
        output_ids : Tensor of shape (1, tokens) or (tokens,), or sequence of int, optional
            All tokens of the session, as ``generate`` returned them: the prompt and the answer.
            Those that the cache holds are kept. Without them, only the prompt is kept.

        Raises
        ------
        InvalidTokensError
            They do not begin with the tokens that the cache was made for, or are those of several
            sequences. The session stays open.
        InvalidArgumentError
            The cache does not come from `for_tokens`: the manager does not know its tokens.
        EntryRemovedError
            The session was removed, or has expired.

        Notes
        -----
        The cache cannot be used afterwards. Of a batch that began with one prompt, the prompt alone
        is kept, whatever is given.
        """
        if not self._session.has_turn:
            raise InvalidArgumentError(
                f"session {self.key!s} was not opened with its tokens: make the cache with "
                "for_tokens, or call release"
            )
        self._session.close(output_ids)

    def release(self) -> None:
        """Give the lease up, so that the session can be evicted; the next tokens take it again.

        Using the cache after the session was evicted raises `kvpool.errors.EntryRemovedError`. A
        session from `for_tokens` stays until `close`.
        """
        self._session.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The session, or the whole pool, may be gone already: then there is nothing to close.
        with contextlib.suppress(EntryRemovedError, PoolClosedError):
            self._session.close()
        self.release()

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Fork the session under a new name; the fork is removed after the copy is gone.

        The next call of the manager removes it. Until then it may be evicted.
        """
        name = f"{self.key.id}~{uuid.uuid4().hex}"
        twin = self.fork(CacheKey(self.key.namespace, name))
        weakref.finalize(twin, self._manager.remove_later, twin.key).atexit = False
        return twin

    def __repr__(self) -> str:
        tokens = self._session.token_count
        return f"<{type(self).__name__} {self.key!s}: {len(self.layers)} layers, {tokens} tokens>"

    # -- what transformers asks for ------------------------------------------------------

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Append tokens to a layer; return the keys and values to attend to.

        Parameters
        ----------
        key_states, value_states : Tensor, shape (batch, kv_heads, tokens, head_dim)
        layer_idx : int

        Returns
        -------
        keys, values : Tensor, shape (batch, kv_heads, tokens held, head_dim)
            Over the memory of the pool, without a copy; a lease.

        Raises
        ------
        PoolExhaustedError
            The pool has no room for the tokens.
        ContextOverflowError
            The session would hold more than `max_context_length` tokens.
        InvalidTokensError
            Shape, dtype or device of the tokens are not those of the session.
        LayerIndexError
            The session has no such layer.
        LayerMismatchError
            The step before was not finished; ``crop(0)`` drops it.
        EntryRemovedError
            The session was removed.
        """
        if torch.compiler.is_dynamo_compiling():
            states: tuple[Any, Any] = _update_eagerly(
                self, key_states, value_states, layer_idx, *args, **kwargs
            )
            return states
        if layer_idx >= len(self.layers):
            raise LayerIndexError(
                f"session {str(self.key)!r} has no layer {layer_idx}: it has {len(self.layers)}"
            )
        layer: PooledLayer = self.layers[layer_idx]
        return layer.update(key_states, value_states, *args, **kwargs)

    def crop(self, tokens_to_remove: int) -> None:
        """Drop tokens from the end.

        Parameters
        ----------
        tokens_to_remove : int
            How many, as a negative number. 0 drops the tokens that only some layers hold. A
            positive number is how many to keep, as in older versions of transformers.

        Raises
        ------
        InvalidTokensError
            `tokens_to_remove` is not a whole number.
        """
        number = whole_number("tokens_to_remove", tokens_to_remove)
        kept = number if number > 0 else self._session.token_count + number
        self._session.truncate(max(kept, 0))

    def reset(self) -> None:
        """Drop all tokens and keep the entry."""
        self._session.truncate(0)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Let sequence i of the batch hold what sequence ``beam_idx[i]`` held.

        The tokens move in place, unless a fork shares them: then the session gets a new entry.
        """
        self._session.reorder(torch.as_tensor(beam_idx).cpu())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence of the batch; the session moves to a larger entry.

        Parameters
        ----------
        repeats : int
            At least 1.

        Raises
        ------
        InvalidTokensError
            `repeats` is not a whole number of at least 1.
        PoolExhaustedError
            The new entry does not fit beside the old one. Nothing has changed, unless another
            thread took the bytes that were freed for it: then the session is gone.
        """
        count = whole_number("repeats", repeats)
        if count < 1:
            raise InvalidTokensError(f"repeats must be at least 1, not {count}")
        self._session.rebuild(lambda rows: rows.repeat_interleave(count))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences of the batch; the session moves to another entry.

        Parameters
        ----------
        indices : Tensor
            Numbers of sequences, or a bool for each sequence.

        Raises
        ------
        PoolExhaustedError
            The new entry does not fit beside the old one. Nothing has changed, unless another
            thread took the bytes that were freed for it: then the session is gone.
        """
        self._session.rebuild(lambda rows: rows[torch.as_tensor(indices).cpu()])

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return how many tokens a layer may hold; -1 if the entry grows."""
        limit: int = self.layers[layer_idx].get_max_length()
        return limit

    # -- inside --------------------------------------------------------------------------

    def _open(self, key: CacheKey, ttl: float | None, turn: Turn | None = None) -> list[Any]:
        """Make this the cache of a session; return the layers over its entry."""
        self._session = PooledSession(
            self._manager, key, self._layout, self._limit, ttl, self._weights, turn
        )
        numbers = iter(range(self._layout.layers))
        return [
            PooledLayer(self._session, next(numbers), kind.window)
            if kind.is_cached
            else EmptyLayer()
            for kind in self._kinds
        ]


def _key_of(session: str | int | CacheKey, namespace: str) -> CacheKey:
    return session if isinstance(session, CacheKey) else CacheKey(namespace, session)


# A compiled model breaks its graph here, since every step attends to more tokens than the last.
_update_eagerly = torch.compiler.disable(PooledCache.update)
