"""`BlockLookup`: asks a store which chunks it has, beside vLLM's scheduler."""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager

from kvpool.integrations._blocks import BlockStore

__all__ = ["BlockLookup"]


class BlockLookup(AsyncLookupManager):
    """Asks a store of blocks, in a thread.

    Parameters
    ----------
    tier_type : str
        The name of the tier, for messages.
    store : BlockStore
    """

    def __init__(self, tier_type: str, store: BlockStore) -> None:
        self._store = store  # before the thread begins
        super().__init__(tier_type)

    def batch_lookup(self, keys: list[bytes], req_context: Any) -> list[bool]:
        """Return whether each chunk is there."""
        del req_context  # the same for all requests
        return self._store.contains([bytes(key) for key in keys])
