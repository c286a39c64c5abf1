"""`identity_of` and `block_key`: names for what the bytes of an object depend on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

__all__ = ["block_key", "identity_of"]


def identity_of(model_id: str | None = None) -> str:
    """Return a text that differs if no object may be shared.

    Parameters
    ----------
    model_id : str, optional
        Stands for the weights of all models of the server. [default: their names, which are in the
        keys]
    """
    return f"lmcache {metadata.version('lmcache')} {model_id or ''}".rstrip()


def block_key(key: Any, dtypes: Sequence[Any]) -> bytes:
    """Return the key of an object in the store.

    Parameters
    ----------
    key : ObjectKey
        From LMCache, which has no types in it: a server that is started again with another type
        would take the bytes of the first one for its own.
    dtypes : sequence of torch.dtype
        The types of the object's tensors.
    """
    names = [
        key.model_name,
        key.kv_rank,
        key.object_group_id,
        key.cache_salt,
        [str(dtype) for dtype in dtypes],
    ]
    return bytes(key.chunk_hash) + json.dumps(names).encode()
