"""SGLang's factory of storages and its pools in host memory, without its engine.

Needs sglang, so tests have it as a fixture. The engine needs a GPU. Its pools in host memory do
not, but their modules import what does: the fixture puts stand-ins in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
)
from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool
from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.storage import StorageBackendFactory

__all__ = [
    "LAYOUTS",
    "PAGE",
    "HiCacheStorage",
    "LogicalHostPool",
    "PoolHitPolicy",
    "PoolName",
    "PoolTransfer",
    "fill",
    "indices",
    "make_pool",
    "make_storage",
    "page_of",
    "torch",
]

PAGE: Final = 4
"""Tokens of a page."""
LAYOUTS: Final = ("layer_first", "page_first", "page_first_direct", "page_head")


def make_pool(
    layout: str = "page_first",
    dtype: Any = torch.bfloat16,
    pages: int = 8,
    heads: int = 2,
    layers: int = 3,
) -> Any:
    """Return a pool of SGLang in host memory, of zeros."""
    dim, cpu = 8, torch.device("cpu")
    keys, values = (
        tuple(torch.zeros((PAGE, heads, dim), dtype=dtype) for _ in range(layers)) for _ in "kv"
    )
    buffers = KVBuffers(
        k=keys,
        v=values,
        k_data_ptrs=torch.tensor([one.data_ptr() for one in keys], dtype=torch.uint64),
        v_data_ptrs=torch.tensor([one.data_ptr() for one in values], dtype=torch.uint64),
        layout=next(iter(KVBufferLayout)),
    )
    info = MHABufferInfo(
        buffers=buffers,
        page_size=PAGE,
        head_num=heads,
        head_dim=dim,
        v_head_dim=dim,
        dtype=dtype,
        device=cpu,
    )
    with host_memory_budget_scope(1 << 30):
        pool = MHATokenToKVPoolHost(
            info,
            host_to_device_ratio=1.0,
            host_size=0,
            page_size=PAGE,
            layout=layout,
            pin_memory=False,
            device_capacity_tokens=PAGE,
            start_layer=0,
            end_layer=layers,
            host_token_capacity=pages * PAGE,
        )
    pool.kv_buffer.zero_()
    return pool


def fill(pool: Any, *numbers: int) -> None:
    """Fill the pages of a pool, each with bytes of its number, from the first page on."""
    for place, number in enumerate(numbers):
        page = pool.get_dummy_flat_data_page()
        dice = torch.Generator().manual_seed(number)
        page.view(torch.uint8).random_(generator=dice)
        pool.set_from_flat_data_page(place * PAGE, page)


def page_of(pool: Any, place: int) -> bytes:
    """Return the bytes of a page of a pool."""
    data: bytes = pool.get_data_page(place * PAGE).view(torch.uint8).numpy().tobytes()
    return data


def indices(*places: int) -> Any:
    """Return the host indices of pages."""
    return torch.tensor([place * PAGE + at for place in places for at in range(PAGE)])


def make_storage(options: dict[str, Any], pool: Any, further: Sequence[Any], **config: Any) -> Any:
    """Return the storage that SGLang's factory makes from an extra configuration.

    Parameters
    ----------
    options : dict
        Of kvpool.
    pool : HostKVCache or None
        Registered, as SGLang does it.
    further : sequence of tuple of str and HostKVCache
        Further pools, registered as well.
    **config : object
        Other than a single process of a model "acme/model-7b" has it.
    """
    extra = {
        "backend_name": "kvpool",
        "module_path": "kvpool.integrations.sglang",
        "class_name": "KVPoolStorage",
        "interface_v1": 1,
        **options,
    }
    alone = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0}
    common = {
        "attn_cp_size": 1,
        "is_mla_model": False,
        "enable_storage_metrics": False,
        "is_page_first_layout": True,
        "model_name": "acme/model-7b",
    }
    storage_config = HiCacheStorageConfig(**(alone | common | config), extra_config=extra)
    storage = StorageBackendFactory.create_backend("dynamic", storage_config, pool)
    if pool is not None:
        storage.register_mem_pool_host(pool)
    for name, one in further:
        storage.register_mem_host_pool_v2(one, name)
    storage.on_host_pools_registered()
    return storage
