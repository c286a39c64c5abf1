"""`identity_of` and `shard_of`: names for what the bytes of a page depend on besides its tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.version import __version__

from kvpool.integrations._sampling import sampled_weights

__all__ = ["identity_of", "shard_of"]


def identity_of(storage_config: Any, model_id: str | None = None) -> str:
    """Return a text that differs if no page may be shared.

    Parameters
    ----------
    storage_config : HiCacheStorageConfig
    model_id : str, optional
        Stands for the weights. [default: the name of the model, and a hash of its files if the
        name is that of a directory]

    Notes
    -----
    What one rank of tensor parallelism has of a page is in `shard_of`.
    """
    name = storage_config.model_name or ""
    model = model_id or name
    about = {
        "engine": f"sglang {__version__}",
        "model": model,
        "files": None if model_id or not name else sampled_weights(Path(name)),
        "name": name,  # SGLang adds the format of pages to it
        "pipeline": [storage_config.pp_rank, storage_config.pp_size],
        "context": [storage_config.attn_cp_rank, storage_config.attn_cp_size],
        "decode context": [
            storage_config.dcp_rank,
            storage_config.dcp_size,
            storage_config.logical_page_size,
        ],
    }
    text = json.dumps(about, sort_keys=True)
    return f"sglang {model} {hashlib.sha256(text.encode()).hexdigest()}"


def shard_of(storage_config: Any, pool_name: str) -> list[int]:
    """Return the rank and the number of ranks that share the heads of a page.

    All ranks have the same keys and values of a model with latent attention (MLA), so these have
    the shard of a single rank. The states of Mamba are shared out in every model.
    """
    if storage_config.is_mla_model and pool_name != PoolName.MAMBA:
        return [0, 1]
    return [storage_config.tp_rank, storage_config.tp_size]
