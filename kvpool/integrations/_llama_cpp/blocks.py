"""`BlockCache`: blocks of tokens of a model in a pool, shared by all its conversations."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidArgumentError, KVPoolError
from kvpool.integrations._llama_cpp.sequence import Sequence
from kvpool.layout import KVLayout
from kvpool.manager import NAMELESS, KVCacheManager
from kvpool.prefix import Identity, chunk_names, token_bytes
from kvpool.tiers import TierStore

__all__ = ["BlockCache", "NotSavedError", "OpenBlocks"]

_log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 8  # how many bytes of a record are the state
_ALIGNMENT: Final = 64


class BlockCache:
    """Keeps the state of whole blocks of tokens, and finds those that a prompt begins with.

    To the manager, a block is one token of a session: its id is a hash of the tokens of the block
    and of all before them, and its key and value are the bytes of the state. So sessions that
    begin alike share the memory of these blocks, and are evicted from their ends.

    Parameters
    ----------
    manager : KVCacheManager
    block_tokens : int
        Tokens of a block.
    block_bytes : int
        Size of the state of a block.
    model_id : str
        Sessions of other models share nothing.
    salt : str
        Sessions with another one share nothing.
    ttl : float or None
        Seconds without a use until a session expires; None for the manager's.
    tiers : TierStore or None
        Where blocks are looked for that the pool does not hold, and where they are kept as well.
    """

    def __init__(
        self,
        manager: KVCacheManager,
        block_tokens: int,
        block_bytes: int,
        model_id: str,
        salt: str,
        ttl: float | None,
        tiers: TierStore | None,
    ) -> None:
        self._manager = manager
        self._tiers = tiers
        self._block_tokens = block_tokens
        self._state_bytes = block_bytes
        self._ttl = ttl
        record = _HEADER_BYTES + 8 * block_tokens + block_bytes
        half = -(-record // (2 * _ALIGNMENT)) * _ALIGNMENT
        # By token, a record is contiguous: llama.cpp reads and writes the memory of the pool.
        self._layout = KVLayout(1, 1, half, "int8", packing="token")
        self._identity = Identity(model_id, salt, self._layout)

    def open(self, key: CacheKey, tokens: NDArray[np.int64]) -> KVCacheEntry:
        """Open a session that holds the first blocks of some tokens, as many as the pool has."""
        opened = self._manager.open_session(
            self._ids(tokens),
            key,
            model_id=self._identity.model_id,
            salt=self._identity.salt,
            layout=self._layout,
            ttl=self._ttl,
            min_left=0,
        )
        return opened.entry

    def load(self, entry: KVCacheEntry, tokens: NDArray[np.int64]) -> int:
        """Append the blocks of some tokens that the tiers have; return how many they are."""
        if self._tiers is None or entry.token_count >= len(tokens) // self._block_tokens:
            return 0
        ids, held = token_bytes(self._ids(tokens)), entry.token_count
        try:
            if self._tiers.load(self._identity, ids, entry).waited:
                # Another model has loaded them meanwhile. Its session is open still, so they come
                # once more, from memory of the system.
                self._tiers.load(self._identity, ids, entry)
        except KVPoolError as error:
            _log.warning("the blocks of a prompt do not come from the tiers: %s", error)
        return entry.token_count - held

    def close(self, entry: KVCacheEntry, tokens: NDArray[np.int64]) -> None:
        """Keep what an entry holds of the blocks of some tokens."""
        ids = self._ids(tokens)
        try:
            if self._tiers is not None and entry.token_count:
                keys, values = entry.keys(), entry.values()
                self._tiers.put(self._identity, token_bytes(ids), keys, values)
        finally:
            self._manager.close_session(entry, ids)

    def note_compute(self, tokens: int, seconds: float) -> None:
        """Note how long the model took for tokens that it computed in one go."""
        if self._tiers is not None and (blocks := tokens // self._block_tokens):
            self._tiers.note_compute(blocks, seconds)

    def remove(self, key: CacheKey) -> None:
        """Remove a session, if it is there."""
        self._manager.remove_cache_entry(key)

    def _ids(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return an id for each whole block; it has 63 bits of a cryptographic hash."""
        names = chunk_names(self._identity, token_bytes(tokens), self._block_tokens)
        ids = [int.from_bytes(name[:8], "little") >> 1 for name in names]
        return np.array(ids, np.int64)

    # -- records -------------------------------------------------------------------------

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self._block_tokens

    def write(
        self, entry: KVCacheEntry, tokens: NDArray[np.int64], state: Sequence, start: int
    ) -> None:
        """Append the block of the main sequence from a position on.

        Raises
        ------
        NotSavedError
            Its state has another size than those of other blocks.
        PoolExhaustedError
            There is no room.
        """
        with entry.writing(0, 1) as (keys, values):
            record = _joined(keys, values)
            size = self._state_bytes
            record[:_HEADER_BYTES].view(np.int64)[0] = size
            end = _HEADER_BYTES + 8 * self._block_tokens
            record[_HEADER_BYTES:end].view(np.int64)[:] = tokens
            if not state.save(start, start + self._block_tokens, record[end : end + size]):
                raise NotSavedError(
                    f"llama.cpp gave a state of another size than {size} bytes for the tokens from "
                    f"{start} on"
                )

    def read(
        self, entry: KVCacheEntry, at: int, tokens: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """Return the state of a block; None if it is not that of these tokens."""
        record = _joined(entry.key(0)[:, at : at + 1], entry.value(0)[:, at : at + 1])
        size = int(record[:_HEADER_BYTES].view(np.int64)[0])
        end = _HEADER_BYTES + 8 * self._block_tokens
        same = np.array_equal(record[_HEADER_BYTES:end].view(np.int64), tokens)
        return record[end : end + size] if same and size == self._state_bytes else None


class NotSavedError(KVPoolError):
    """llama.cpp did not give the state of a block as it does for others."""


class OpenBlocks:
    """A session of blocks, for one prompt.

    Parameters
    ----------
    cache : BlockCache
    tokens : ndarray of int64
        The prompt.
    """

    # Whoever makes this has it before the session is open, so that an interrupt in `open` leaves
    # no open session that nobody knows.

    def __init__(self, cache: BlockCache, tokens: NDArray[np.int64]) -> None:
        self._cache = cache
        self._tokens = tokens
        # In this namespace a session is without a name: the next one may go on from it in place.
        self._key = CacheKey(NAMELESS, uuid.uuid4().hex)
        self._entry: KVCacheEntry | None = None

    def open(self) -> None:
        """Open the session, which then holds what the pool has of the prompt."""
        self._entry = self._cache.open(self._key, self._tokens)

    def load(self) -> int:
        """Load what the tiers have of the rest; return how many tokens of the model these are."""
        return self._cache.load(self._entered, self._tokens) * self._cache.block_tokens

    @property
    def token_count(self) -> int:
        """Tokens of the model whose state the session holds."""
        entry = self._entry
        return 0 if entry is None else entry.token_count * self._cache.block_tokens

    def blocks(self, start: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield where each block of the prompt ends that the session holds, and its state.

        Parameters
        ----------
        start : int
            Where the first one begins: a multiple of the block.
        """
        size = self._cache.block_tokens
        for at in range(start, self.token_count, size):
            tokens = self._tokens[at : at + size]
            block = self._cache.read(self._entered, at // size, tokens)
            if block is None:
                self.cut(at)
                return
            yield at + size, block

    def cut(self, end: int) -> None:
        """Drop the blocks from a position on, which are of no use to anyone."""
        self._entered.drop(end // self._cache.block_tokens)

    def close(self, state: Sequence, tokens: NDArray[np.int64]) -> None:
        """Append the blocks of the main sequence that the session does not hold, and close it.

        Parameters
        ----------
        state : Sequence
        tokens : ndarray of int64
            All tokens of the main sequence.
        """
        if self._entry is None:
            self._cache.remove(self._key)
            return
        size, held = self._cache.block_tokens, self.token_count
        if not np.array_equal(tokens[:held], self._tokens[:held]):
            # An interrupt came before the context had what the session holds.
            self._cache.close(self._entry, self._tokens)
            return
        try:
            for start in range(held, len(tokens) - size + 1, size):
                self._cache.write(self._entry, tokens[start : start + size], state, start)
        finally:
            self._cache.close(self._entry, tokens)

    @property
    def _entered(self) -> KVCacheEntry:
        if self._entry is None:
            raise InvalidArgumentError("the session of blocks is not open")
        return self._entry


def _joined(keys: NDArray[np.int8], values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return the memory of a key and of the value behind it as one array."""
    first, half = keys.reshape(-1).view(np.uint8), keys.nbytes
    if values.ctypes.data - keys.ctypes.data != half:
        raise InvalidArgumentError("the layout of blocks of llama.cpp is not contiguous")
    return np.lib.stride_tricks.as_strided(
        first, (2 * half,), (1,), writeable=bool(keys.flags.writeable)
    )
