"""What vLLM calls in each of its processes, so that a configuration can name tiers of kvpool.

It is the entry point ``kvpool`` of the group ``vllm.general_plugins``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

__all__ = ["POLICIES", "register"]

_log = logging.getLogger("kvpool.vllm")

_FRONT: Final = "kvpool.integrations.vllm"

POLICIES: Final = {
    "kvpool-arc": "ArcChunks",
    "kvpool-fifo": "FifoChunks",
    "kvpool-gdsf": "GdsfChunks",
    "kvpool-hit-density": "HitDensityChunks",
    "kvpool-lfu": "LfuChunks",
    "kvpool-lru": "LruChunks",
    "kvpool-s3-fifo": "S3FifoChunks",
    "kvpool-sieve": "SieveChunks",
    "kvpool-slru": "SlruChunks",
}
"""What ``eviction_policy`` may be called, and the class of each."""


def register() -> None:
    """Make tier, spec and policies known to vLLM by short names.

    Never raises. Without vLLM, or with one of another version, nothing is registered. The parts
    themselves are imported when a configuration asks for them.
    """
    try:
        if find_spec("vllm") is None:
            return
        tiers: Any = import_module("vllm.v1.kv_offload.tiering.factory").SecondaryTierFactory
        specs: Any = import_module("vllm.v1.kv_offload.factory").OffloadingSpecFactory
        policies: Any = import_module("vllm.v1.kv_offload.cpu.policies.factory").CachePolicyFactory
    except Exception as error:
        _log.warning("kvpool is not registered with this version of vLLM: %s", error)
        return
    _register(tiers.register_tier, "kvpool", "KVPoolTier")
    _register(specs.register_spec, "KVPoolOffloadingSpec", "KVPoolOffloadingSpec")
    for name, policy in POLICIES.items():
        _register(policies.register_cache_policy, name, policy)


def _register(register_one: Callable[[str, str, str], object], name: str, kind: str) -> None:
    try:
        register_one(name, _FRONT, kind)
    except ValueError:  # vLLM calls `register` more than once in one process
        _log.debug("vLLM knows %r already", name)
    except Exception as error:
        _log.warning("vLLM does not take %r of kvpool: %s", name, error)
