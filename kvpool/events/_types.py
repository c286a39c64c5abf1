"""The events, with the names and in the order of the fields that KV-aware routers know."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["AllBlocksCleared", "BlockHash", "BlockRemoved", "BlockStored", "Event", "EventBatch"]

BlockHash: TypeAlias = int | bytes
"""The name of a chunk: its last 64 bits as a number, or all 32 bytes of it."""


class BlockStored(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """The pool holds some chunks of tokens that follow each other, and did not before.

    Parameters
    ----------
    block_hashes : list of int or bytes
        The names of the chunks; see `kvpool.prefix.chunk_names`.
    parent_block_hash : int, bytes or None
        The name of the chunk before them; None if they begin the sequence.
    token_ids : list of int
        Of all these chunks.
    block_size : int
        Tokens of a chunk.
    lora_id : None
    medium : str or None
        Where the keys and values are.
    lora_name : str or None
        The model of the session; None if it is the base model.
    extra_keys : list of (str,), optional
        For each chunk of a session with a salt, a name of the salt, which is not the salt.
    """

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str]] | None = None


class BlockRemoved(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """The pool does not hold some chunks any more.

    Parameters
    ----------
    block_hashes : list of int or bytes
        The names of the chunks; one comes after those that follow it.
    medium : str or None
        Where the keys and values were.
    """

    block_hashes: list[BlockHash]
    medium: str | None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True):
    """The pool holds no chunks; what it does hold is told again after this."""


Event: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Events in the order in which they happened.

    Parameters
    ----------
    ts : float
        Seconds since 1970.
    events : list of BlockStored, BlockRemoved or AllBlocksCleared
    data_parallel_rank : int, optional
    """

    ts: float
    events: list[Event]
    data_parallel_rank: int | None = None
