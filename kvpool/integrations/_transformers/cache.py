"""`PooledCache`: a session of the pool as the cache of a model."""

from __future__ import annotations

import copy
import uuid
import weakref
from types import TracebackType
from typing import Any, Self

import torch
from transformers.cache_utils import Cache

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryExistsError, EntryNotFoundError, LayerIndexError
from kvpool.integrations._transformers.arguments import layout_of, token_list
from kvpool.integrations._transformers.layers import EmptyLayer, PooledLayer
from kvpool.integrations._transformers.prefix import PrefixCache
from kvpool.integrations._transformers.session import PooledSession
from kvpool.layout import LayerKind, layer_kinds
from kvpool.manager import KVCacheManager

__all__ = ["PooledCache"]


class PooledCache(Cache):
    """The tokens of one session of a `kvpool.KVCacheManager`, as a model's ``past_key_values``.

    New tokens are written in place behind those that the session holds, and the model attends
    to tensors of shape ``(batch, kv_heads, tokens, head_dim)`` over the memory of the pool:
    nothing is copied, however long the context is.

    Parameters
    ----------
    manager : KVCacheManager
    session : str, int or CacheKey
        Which one. If the manager has an entry for it, the cache goes on from its tokens; else
        one is made with the first tokens.
    config : PreTrainedConfig, optional
        Of the model. Tells the layout, and which layers attend to a window only. Without it
        all layers attend to everything, and the layout is the manager's.
    dtype : torch.dtype or str, optional
        Of keys and values. By default the manager's layout has it, else `config`.
    max_context_length : int, optional
        Tokens that the session may hold; the entry gets room for all of them at once. Without
        it the entry grows as needed: twice the room each time, or what is left.
    ttl : float, optional
        Seconds that the entry of a new session stays without being used.
    namespace : str, default "transformers"
        Of the key that is made of a `session` that is no key.

    Attributes
    ----------
    key : CacheKey

    Raises
    ------
    InvalidLayoutError
        Neither `config` nor the manager has a layout, they differ, or a layer of the model is
        of a type that keeps other things than keys and values; the text names it.
    EntryKindError
        The session has an entry of another layout.

    Notes
    -----
    *Lease.* From its first tokens until `release`, the end of a ``with`` block or the end of
    the object, the session is not evicted. A cache per turn is the way to let sessions that
    wait be evicted.

    *Errors.* Where a step fails or is interrupted, as by a full pool, the session holds the
    tokens from before; ``crop(0)`` or a new cache drops what some layers already took.

    *Batches.* All sequences of a batch are one session.

    *Threads.* One cache, and one session, belongs to one thread at a time; any number of them
    share a manager.
    """

    key: CacheKey

    def __init__(
        self,
        manager: KVCacheManager,
        session: str | int | CacheKey,
        *,
        config: Any = None,
        dtype: Any = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        namespace: str = "transformers",
    ) -> None:
        self._layout = layout_of(manager, config, dtype)
        every = [LayerKind(is_cached=True)] * self._layout.layers
        self._kinds = every if config is None else layer_kinds(config)
        self._manager = manager
        self._limit = max_context_length
        self._namespace = namespace
        super().__init__(layers=self._open(self._key_of(session), ttl))

    @classmethod
    def for_model(
        cls, manager: KVCacheManager, model: Any, session: str | int | CacheKey, **options: Any
    ) -> Self:
        """Return the cache of a session for a model.

        Parameters
        ----------
        manager, session
            As for the class.
        model : PreTrainedModel
            Its configuration and dtype are taken.
        **options
            As for the class.
        """
        return cls(manager, session, **{"config": model.config, "dtype": model.dtype, **options})

    @classmethod
    def from_prefix(
        cls,
        manager: KVCacheManager,
        session: str | int | CacheKey,
        input_ids: Any,
        prefix_cache: PrefixCache,
        **options: Any,
    ) -> Self:
        """Return the cache of a session; a new one starts as a fork of one that begins alike.

        Parameters
        ----------
        manager, session
            As for the class.
        input_ids : Tensor of shape (1, tokens) or sequence of int
            What the session is going to begin with. At least the last one stays to be computed.
        prefix_cache : PrefixCache
            Who knows which sessions begin alike.
        **options
            As for the class.

        Raises
        ------
        PoolExhaustedError
            The fork does not fit.
        """
        cache = cls(manager, session, **options)
        if cache._session.entry is None:
            tokens = token_list(input_ids)
            match = prefix_cache.longest_prefix(tokens)
            if match is not None:
                cache._begin_as(match.key, min(match.token_count, len(tokens) - 1))
        return cache

    # -- the session ---------------------------------------------------------------------

    def fork(self, session: str | int | CacheKey, *, ttl: float | None = None) -> Self:
        """Return the cache of a new session that begins with the tokens of this one.

        What is appended to one is not seen by the other.

        Parameters
        ----------
        session : str, int or CacheKey
            A name that has no entry yet.
        ttl : float, optional
            Seconds that its entry stays without being used.

        Raises
        ------
        EntryExistsError
            The name has an entry.
        PoolExhaustedError
            It does not fit; nothing has changed.
        """
        key = self._key_of(session)
        if key in self._manager:
            raise EntryExistsError(f"{key!s} has an entry already")
        if self._session.entry is not None:
            self._session.truncate(self._session.token_count)
            lease = self._manager.fork_cache_entry(self.key, key, ttl=ttl).data()
        else:
            lease = None
        forked = copy.copy(self)
        forked.layers = forked._open(key, ttl)
        del lease  # held until the fork has its own
        return forked

    def release(self) -> None:
        """Let the session be evicted. The next tokens take the lease again.

        Using the cache after the session was evicted raises `kvpool.errors.EntryRemovedError`.
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
        self.release()

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Fork the session under a name of its own, to be removed with the copy.

        It goes with the next call of the manager; until then it may be evicted.
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
        PoolExhaustedError, ContextOverflowError
            There is no room for the tokens.
        InvalidTokensError, LayerIndexError
            The tokens do not fit the layout.
        LayerMismatchError
            The step before was not finished; see the notes of the class.
        EntryRemovedError
            The session was removed.
        """
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
            How many, as a negative number. 0 drops those that not all layers hold. A positive
            number is how many to keep, as in older versions of transformers.
        """
        held = self._session.token_count
        kept = tokens_to_remove if tokens_to_remove > 0 else held + tokens_to_remove
        self._session.truncate(max(kept, 0))

    def reset(self) -> None:
        """Drop all tokens; the entry stays."""
        self._session.truncate(0)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Let sequence i of the batch hold what sequence ``beam_idx[i]`` held.

        In place, unless a fork shares the tokens: then the session moves to another entry.
        """
        self._session.reorder(torch.as_tensor(beam_idx).cpu())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence of the batch; the session moves to a larger entry.

        Raises
        ------
        PoolExhaustedError
            The new entry does not fit beside the old one; nothing has changed, unless another
            thread took the room that was made: then the session is gone.
        """
        self._session.rebuild(lambda rows: rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences of the batch; the session moves to another entry.

        Parameters
        ----------
        indices : Tensor
            Numbers of sequences, or a bool for each.

        Raises
        ------
        PoolExhaustedError
            The new entry does not fit beside the old one; nothing has changed, unless another
            thread took the room that was made: then the session is gone.
        """
        self._session.rebuild(lambda rows: rows[torch.as_tensor(indices).cpu()])

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return the tokens that a layer may hold; -1 where the entry grows."""
        limit: int = self.layers[layer_idx].get_max_length()
        return limit

    # -- inside --------------------------------------------------------------------------

    def _key_of(self, session: str | int | CacheKey) -> CacheKey:
        return session if isinstance(session, CacheKey) else CacheKey(self._namespace, session)

    def _open(self, key: CacheKey, ttl: float | None) -> list[Any]:
        """Turn to a session; return the layers over it."""
        self.key = key
        self._session = PooledSession(self._manager, key, self._layout, self._limit, ttl)
        numbers = iter(range(self._layout.layers))
        return [
            PooledLayer(self._session, next(numbers), kind.window)
            if kind.is_cached
            else EmptyLayer()
            for kind in self._kinds
        ]

    def _begin_as(self, parent: CacheKey, token_count: int) -> None:
        """Fork another session and keep its first tokens, unless it has gone."""
        entry = self._manager.get_cache_entry(parent)
        if token_count < 1 or not isinstance(entry, KVCacheEntry) or entry.layout != self._layout:
            return
        try:
            lease = self._manager.fork_cache_entry(parent, self.key, ttl=self._session.ttl).data()
        except EntryNotFoundError:
            return
        self.layers = self._open(self.key, self._session.ttl)
        del lease
        self._session.truncate(token_count)
