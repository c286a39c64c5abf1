"""`BlockCache`: blocks of tokens of a model in a pool, shared by all its conversations."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidArgumentError
from kvpool.integrations._llama_cpp.sequence import Sequence
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, chunk_names, token_bytes

__all__ = ["BlockCache", "OpenBlocks"]

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
    """

    def __init__(
        self,
        manager: KVCacheManager,
        block_tokens: int,
        block_bytes: int,
        model_id: str,
        salt: str,
        ttl: float | None,
    ) -> None:
        self._manager = manager
        self._block_tokens = block_tokens
        self._state_bytes = block_bytes
        self._ttl = ttl
        record = _HEADER_BYTES + 8 * block_tokens + block_bytes
        half = -(-record // (2 * _ALIGNMENT)) * _ALIGNMENT
        # By token, a record is contiguous: llama.cpp reads and writes the memory of the pool.
        self._layout = KVLayout(1, 1, half, "int8", packing="token")
        self._identity = Identity(model_id, salt, self._layout)

    def open(self, tokens: NDArray[np.int64]) -> OpenBlocks:
        """Open a session that holds the first blocks of some tokens, as many as the pool has."""
        opened = self._manager.open_session(
            self._ids(tokens),
            model_id=self._identity.model_id,
            salt=self._identity.salt,
            layout=self._layout,
            ttl=self._ttl,
            min_left=0,
        )
        return OpenBlocks(self, opened.entry)

    def close(self, entry: KVCacheEntry, tokens: NDArray[np.int64]) -> None:
        """Keep what an entry holds of the blocks of some tokens."""
        self._manager.close_session(entry, self._ids(tokens))

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
    ) -> bool:
        """Append the block of the main sequence from a position on; return whether that went."""
        with entry.writing(0, 1) as (keys, values):
            record = _joined(keys, values)
            size = self._state_bytes
            record[:_HEADER_BYTES].view(np.int64)[0] = size
            end = _HEADER_BYTES + 8 * self._block_tokens
            record[_HEADER_BYTES:end].view(np.int64)[:] = tokens
            saved = state.save(start, start + self._block_tokens, record[end : end + size])
        if not saved:
            entry.drop(entry.token_count - 1)
        return saved

    def read(
        self, entry: KVCacheEntry, at: int, tokens: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """Return the state of a block; None if it is not that of these tokens."""
        record = _joined(entry.key(0)[:, at : at + 1], entry.value(0)[:, at : at + 1])
        size = int(record[:_HEADER_BYTES].view(np.int64)[0])
        end = _HEADER_BYTES + 8 * self._block_tokens
        same = np.array_equal(record[_HEADER_BYTES:end].view(np.int64), tokens)
        return record[end : end + size] if same and size == self._state_bytes else None


class OpenBlocks:
    """A session of blocks, from its opening to its close.

    Parameters
    ----------
    cache : BlockCache
    entry : KVCacheEntry
    """

    def __init__(self, cache: BlockCache, entry: KVCacheEntry) -> None:
        self._cache = cache
        self._entry = entry

    @property
    def token_count(self) -> int:
        """Tokens of the model whose state the session holds."""
        return self._entry.token_count * self._cache.block_tokens

    def restore(self, state: Sequence, tokens: NDArray[np.int64], start: int) -> int:
        """Add what the session holds to the main sequence; return up to which position.

        Parameters
        ----------
        state : Sequence
        tokens : ndarray of int64
            Of the prompt.
        start : int
            Where the main sequence ends; a multiple of the block.
        """
        size = self._cache.block_tokens
        for at in range(start, self.token_count, size):
            block = self._cache.read(self._entry, at // size, tokens[at : at + size])
            if block is None or not state.restore(block):
                self._entry.drop(at // size)  # it is of no use to anyone
                return at
        return max(start, self.token_count)

    def save(self, state: Sequence, tokens: NDArray[np.int64]) -> None:
        """Append the blocks of the main sequence that the session does not hold, and close it.

        Parameters
        ----------
        state : Sequence
        tokens : ndarray of int64
            All tokens of the main sequence.
        """
        size = self._cache.block_tokens
        try:
            for start in range(self.token_count, len(tokens) - size + 1, size):
                if not self._cache.write(self._entry, tokens[start : start + size], state, start):
                    break
        finally:
            self._cache.close(self._entry, tokens)


def _joined(keys: NDArray[np.int8], values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return the memory of a key and of the value behind it as one array."""
    first, half = keys.reshape(-1).view(np.uint8), keys.nbytes
    if values.ctypes.data - keys.ctypes.data != half:
        raise InvalidArgumentError("the layout of blocks of llama.cpp is not contiguous")
    return np.lib.stride_tricks.as_strided(
        first, (2 * half,), (1,), writeable=bool(keys.flags.writeable)
    )
