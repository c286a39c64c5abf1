"""`LlamaPoolCache`: whole states of llama.cpp in a pool, for ``Llama.set_cache``."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from llama_cpp.llama import LlamaState
from llama_cpp.llama_cache import BaseLlamaCache
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.errors import EntryRemovedError, InvalidArgumentError, KVPoolError
from kvpool.eviction import EvictionPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, PrefixTree, token_bytes

__all__ = ["LlamaPoolCache"]

_log = logging.getLogger(__name__)

_HEADER: Final = np.dtype(
    [("tokens", "<i8"), ("room", "<i8"), ("seed", "<i8"), ("rows", "<i8"), ("columns", "<i8")]
)
_IDENTITY: Final = Identity("", "", KVLayout(1, 1, 1, "int8"))  # one tree has one model


class LlamaPoolCache(BaseLlamaCache):
    """A cache for ``Llama.set_cache`` whose states lie in a pool: they are all that it holds.

    Each model has to have a cache of its own.

    A state is found by the longest prefix that it has in common with a prompt, in the time that
    comparing the prefix takes. When a conversation goes on, its new state replaces the one before.

    Parameters
    ----------
    manager : KVCacheManager
        Its policy, its time to live and its receipts hold for states as for any session.
    namespace : str, default "llama.cpp"
        Namespace of the keys of the states, for listings and receipts.
    ttl : float, optional
        Seconds without a use until a state expires. [default: the manager's]
    keep_scores : bool, default False
        Keep the logits of earlier tokens as well. They are needed for ``logprobs`` with
        ``echo=True`` alone, and take 512 rows of the vocabulary or more for every state: more
        than the keys and values of most conversations.

    Raises
    ------
    InvalidArgumentError
        `manager` is not a `KVCacheManager`, or `namespace` is not a str.

    Notes
    -----
    Works with every model that llama.cpp runs. For those that keep keys and values of all tokens,
    `PooledLlama` is faster: it stores what conversations share once, and copies no whole states.

    *Errors.* A state that does not fit is not kept, and a line is logged.

    *Threads.* Any thread may call.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        *,
        namespace: str = "llama.cpp",
        ttl: float | None = None,
        keep_scores: bool = False,
    ) -> None:
        if not isinstance(manager, KVCacheManager):
            raise InvalidArgumentError(f"manager must be a KVCacheManager, not {manager!r}")
        if not isinstance(namespace, str):
            raise InvalidArgumentError(f"namespace must be a str, not {namespace!r}")
        super().__init__(manager.pool.capacity)
        self._manager = manager
        self._namespace = namespace
        self._ttl = ttl
        self._keep_scores = keep_scores
        self._lock = threading.Lock()
        self._tree = PrefixTree(_Unranked(), 1)
        self._own = self._tree.ends  # the keys of the states, with some that were evicted

    @property
    def cache_size(self) -> int:
        """Bytes of all states that are there."""
        return sum(entry.size_bytes for key, entry in self._manager.items() if key in self._own)

    def __len__(self) -> int:
        return sum(key in self._own for key in self._manager)

    def __bool__(self) -> bool:  # `Llama` asks whether it has a cache in this way
        return True

    def __contains__(self, key: Sequence[int]) -> bool:
        with self._lock:
            return self._find(token_bytes(key)) is not None

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest prefix in common; it keeps its entry while it lives.

        Raises
        ------
        KeyError
            No state begins with the first token.
        """
        with self._lock:
            found = self._find(token_bytes(key))
        if found is None:
            raise KeyError("no state begins with the first of these tokens")
        return _unpacked(found)

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        """Keep a state, and remove those that it goes on from."""
        tokens = token_bytes(key)
        if not tokens:
            return
        parts = _parts(value, self._keep_scores)
        nbytes = sum(part.nbytes for part in parts)
        name = CacheKey(self._namespace, uuid.uuid4().hex)
        with self._lock:
            try:
                entry = self._manager.allocate_entry(name, nbytes, ttl=self._ttl)
                _pack(entry.data(), parts)
                self._forget_evicted()
                self._remove_covered(tokens)  # not before: a state that does not fit costs none
                self._tree.hold(name, _IDENTITY, tokens)
            except KVPoolError as error:
                _log.warning("a state of llama.cpp of %d bytes is not kept: %s", nbytes, error)
            finally:
                if name not in self._own:  # also after an interrupt
                    with contextlib.suppress(KVPoolError):
                        self._manager.remove_cache_entry(name)

    def clear(self) -> None:
        """Remove all states."""
        with self._lock:
            for key in list(self._own):
                self._remove(key)

    def _find(self, tokens: bytes) -> NDArray[np.uint8] | None:
        """Return the bytes of the state with the longest common prefix; a use of it."""
        while True:
            segment, _ = self._tree.match(_IDENTITY, tokens)
            if segment is None:
                return None
            key = self._tree.holder(segment)
            try:
                entry = self._manager.get_cache_entry(key)
                if entry is not None:
                    return entry.data()
            except EntryRemovedError:  # between the two calls
                pass
            self._tree.drop(key)

    def _remove_covered(self, tokens: bytes) -> None:
        """Remove the states that a state of these tokens makes needless."""
        segment, length = self._tree.match(_IDENTITY, tokens)
        if segment is None:
            return
        covered = [key for part in segment.path() if part.end <= length for key in part.holders]
        for key in covered:
            self._remove(key)

    def _forget_evicted(self) -> None:
        present = set(self._manager)
        for key in [key for key in self._own if key not in present]:
            self._tree.drop(key)

    def _remove(self, key: CacheKey) -> None:
        self._manager.remove_cache_entry(key)
        self._tree.drop(key)


class _Unranked(EvictionPolicy):
    """Ranks nothing: the policy of the manager decides which state goes."""

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Do nothing."""

    def touch(self, item: Hashable, /) -> None:
        """Do nothing."""

    def remove(self, item: Hashable, /) -> None:
        """Do nothing."""

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Do nothing."""

    def victims(self) -> Iterator[Hashable]:
        """Yield nothing."""
        return iter(())


def _parts(state: LlamaState, keep_scores: bool) -> list[NDArray[Any]]:
    """Return what is kept of a state, as arrays."""
    rows = np.ascontiguousarray(state.scores, np.float32) if keep_scores else np.zeros((1, 1))
    scores = rows.astype(np.float32, copy=False)
    ids = np.ascontiguousarray(state.input_ids, np.int32)
    header = np.zeros(1, _HEADER)
    header[0] = (state.n_tokens, len(ids), state.seed, *scores.shape)
    return [header, ids, scores, np.frombuffer(state.llama_state, np.uint8)]


def _pack(target: NDArray[np.uint8], parts: list[NDArray[Any]]) -> None:
    at = 0
    for part in parts:
        target[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
        at += part.nbytes


def _unpacked(packed: NDArray[np.uint8]) -> LlamaState:
    """Return a state over the bytes that `_pack` wrote; only the token ids are copied."""
    at = _HEADER.itemsize
    header = packed[:at].view(_HEADER)[0]
    ids = packed[at : at + 4 * int(header["room"])].view(np.int32)
    at += ids.nbytes
    shape = int(header["rows"]), int(header["columns"])
    scores = packed[at : at + 4 * shape[0] * shape[1]].view(np.float32).reshape(shape)
    at += scores.nbytes
    state = packed[at:]
    # `load_state` copies from any buffer, so the state needs not be a `bytes` of its own.
    return LlamaState(
        input_ids=ids.astype(np.intc),
        scores=scores,
        n_tokens=int(header["tokens"]),
        llama_state=state.data,
        llama_state_size=state.nbytes,
        seed=int(header["seed"]),
    )
