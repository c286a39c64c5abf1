"""Parts of LMCache that its server makes: adapters from their configuration, keys and objects."""

from __future__ import annotations

import json
import select
from collections.abc import Sequence
from typing import Any, Final

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.plugin_l2_adapter import PluginL2AdapterConfig
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.platform import consume_fd

__all__ = ["SHAPE", "Calls", "adapter_of", "key_of", "made", "read"]

SHAPE: Final = (2, 2, 16, 8)
_PATIENCE: Final = 60  # seconds, only so that a test that is wrong has an end


def adapter_of(params: dict[str, Any]) -> Any:
    """Return the adapter that LMCache makes of an option of its server."""
    option = {
        "type": "plugin",
        "module_path": "kvpool.integrations.lmcache",
        "class_name": "KVPoolL2Adapter",
        "adapter_params": params,
    }
    config = PluginL2AdapterConfig.from_dict(json.loads(json.dumps(option)))
    return create_l2_adapter(config)


def key_of(number: int, **other: Any) -> ObjectKey:
    """Return the key of a chunk."""
    names = {"model_name": "small/model", "kv_rank": 0} | other
    return ObjectKey(chunk_hash=number.to_bytes(32, "big"), **names)


def made(seed: int | None, dtype: torch.dtype = torch.bfloat16) -> TensorMemoryObj:
    """Return an object with random bytes; of zeros if there is no seed."""
    shape = torch.Size(SHAPE)
    count = shape.numel() * dtype.itemsize
    if seed is None:
        data = torch.zeros(count, dtype=torch.uint8)
    else:
        generator = torch.Generator().manual_seed(seed)
        data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    about = MemoryObjMetadata(
        shape, dtype, 0, count, 1, fmt=MemoryFormat.KV_2LTD, shapes=[shape], dtypes=[dtype]
    )
    return TensorMemoryObj(data, about, None)


def read(one: Any) -> bytes:
    """Return the bytes of an object."""
    return bytes(one.byte_array)


class Calls:
    """Calls an adapter as the controllers of LMCache do: submit, wait for the event, ask.

    Parameters
    ----------
    adapter : L2AdapterInterface
    """

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def store(self, keys: Sequence[Any], objects: Sequence[Any]) -> Any:
        """Return what has become of a store."""
        task = self.adapter.submit_store_task(list(keys), list(objects))
        results: dict[int, Any] = {}
        while task not in results:
            _wait(self.adapter.get_store_event_fd())
            results |= self.adapter.pop_completed_store_tasks()
        return results[task]

    def look(self, keys: Sequence[Any], dtype: torch.dtype = torch.bfloat16) -> list[bool]:
        """Return which objects are there."""
        layout = MemoryLayoutDesc([torch.Size(SHAPE)], [dtype])
        layouts = dict.fromkeys({key.object_group_id for key in keys}, layout)
        task = self.adapter.submit_lookup_and_lock_task(list(keys), layouts)
        _wait(self.adapter.get_lookup_and_lock_event_fd())
        found = self.adapter.query_lookup_and_lock_result(task)
        assert self.adapter.query_lookup_and_lock_result(task) is None  # it is told once
        self.adapter.submit_unlock(list(keys))
        return [found.test(at) for at in range(len(keys))]

    def load(self, keys: Sequence[Any], objects: Sequence[Any]) -> list[bool]:
        """Load objects; return which ones are there now."""
        task = self.adapter.submit_load_task(list(keys), list(objects))
        _wait(self.adapter.get_load_event_fd())
        found = self.adapter.query_load_result(task)
        assert self.adapter.query_load_result(task) is None
        return [found.test(at) for at in range(len(keys))]


def _wait(descriptor: int) -> None:
    """Wait until an event has come, and take it."""
    assert select.select([descriptor], [], [], _PATIENCE)[0], "the event never came"
    consume_fd(descriptor)
