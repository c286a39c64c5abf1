"""The policies of kvpool in the memory of vLLM's own offloading."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from kvpool.integrations.vllm_plugin import POLICIES
from kvpool.plugins import PluginRegistry

pytestmark = pytest.mark.engines

MakeOffloading = Callable[..., Any]


def test_each_policy_of_kvpool_has_a_name_in_vllm(parts: Any) -> None:
    assert parts
    registry: PluginRegistry[Any] = import_module("kvpool.eviction.registry").registry
    built_in = {f"kvpool-{name}" for name in registry.names()}
    assert set(POLICIES) == built_in
    front: Any = import_module("kvpool.integrations.vllm")
    assert {f"kvpool-{getattr(front, kind).name}" for kind in POLICIES.values()} == built_in


@pytest.mark.parametrize("policy", POLICIES)
def test_chunks_leave_the_memory_and_come_back(make: MakeOffloading, policy: str) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB"}, chunks=5, eviction_policy=policy)
    for number in range(0, 40, 2):
        assert engine.store(number, number + 1) == [number, number + 1]
        assert engine.load(number, number + 1) == 2
    assert engine.load(0, 1) == 2
    engine.forget()
    assert engine.load(0, 1, 2, 3) == 4


def test_what_is_used_stays(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, chunks=4, eviction_policy="kvpool-lru")
    engine.store(1)
    engine.store(2)
    engine.load(1)
    engine.store(3)
    engine.store(4)
    engine.load(1)
    engine.store(5)
    engine.store(6)
    resident = [number for number in range(1, 7) if is_resident(engine, number)]
    assert resident == [1, 4, 5, 6]


def is_resident(engine: Any, number: int) -> bool:
    key = number.to_bytes(32, "big") + bytes(4)
    found = engine.manager.primary_tier.lookup(key, engine.begin())
    return str(found.name) == "HIT"


def test_chunks_in_use_are_not_evicted(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, chunks=2, eviction_policy="kvpool-s3-fifo")
    engine.store(1, 2)
    context = engine.begin()
    keys = [number.to_bytes(32, "big") + bytes(4) for number in (1, 2)]
    engine.manager.prepare_load(keys, context)
    assert engine.store(3) == []
    engine.manager.complete_load(keys, context)
    assert engine.store(3) == [3]


def test_a_store_that_fails_leaves_nothing(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, chunks=2, eviction_policy="kvpool-sieve")
    context = engine.begin()
    key = (1).to_bytes(32, "big") + bytes(4)
    engine.manager.prepare_store([key], context)
    engine.manager.complete_store([key], context, success=False)
    engine.manager.on_request_finished(context)
    assert not is_resident(engine, 1)
    assert engine.store(1, 2) == [1, 2]


def test_the_last_chunk_of_a_request_goes_first(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, chunks=4, eviction_policy="kvpool-fifo")
    engine.store(1, 2, 3)
    engine.store(4)
    engine.store(5, 6)
    assert [number for number in range(1, 7) if is_resident(engine, number)] == [1, 4, 5, 6]


class Memory:
    """The chunks of hit-density, without a manager around them."""

    def __init__(self, parts: Any) -> None:
        front: Any = import_module("kvpool.integrations.vllm")
        self.parts, self.chunks = parts, front.HitDensityChunks(10)

    def request(self, *keys: bytes) -> None:
        """Bring what is not there of a prompt, and use the rest."""
        context = self.parts.ReqContext(req_id="one")
        for place, key in enumerate(keys):
            context.set_offload_key_position(key, place)
        new = [key for key in keys if self.chunks.get(key) is None]
        for key in new:
            self.chunks.insert(key, self.parts.ChunkStatus(0))
            self.chunks.get(key).ref_cnt = 0
        self.chunks.on_request_finished([keys], set(new), set(keys) - set(new), context)

    def use(self, key: bytes, times: int) -> None:
        for _ in range(times):
            self.chunks.touch([key], None)

    def evict(self) -> bytes:
        ((key, _),) = self.chunks.evict(1, set())
        return bytes(key)


def test_the_end_of_a_prompt_goes_before_its_beginning(parts: Any) -> None:
    memory = Memory(parts)
    memory.request(b"a", b"b", b"c")
    memory.use(b"c", 5)
    memory.use(b"b", 5)
    assert [memory.evict() for _ in range(3)] == [b"c", b"b", b"a"]


def test_a_beginning_that_comes_back_is_linked_again(parts: Any) -> None:
    memory = Memory(parts)
    memory.request(b"a", b"b")
    memory.chunks.get(b"b").ref_cnt = 1
    assert memory.evict() == b"a"
    memory.chunks.get(b"b").ref_cnt = 0
    memory.request(b"a", b"b")
    memory.use(b"b", 5)
    assert [memory.evict() for _ in range(2)] == [b"b", b"a"]


def test_a_use_before_the_end_of_the_request_is_no_error(parts: Any) -> None:
    memory = Memory(parts)
    memory.chunks.insert(b"a", parts.ChunkStatus(0))
    memory.use(b"a", 2)
    memory.use(b"missing", 1)
    memory.chunks.get(b"a").ref_cnt = 0
    assert memory.evict() == b"a"
    memory.request(b"a")
    memory.chunks.clear()
    assert memory.chunks.get(b"a") is None
    assert memory.chunks.evict(1, set()) is None


def test_a_chunk_that_comes_back_is_known_again(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, chunks=4, eviction_policy="kvpool-arc")
    for _ in range(3):
        for number in range(6):
            engine.store(number)
            engine.load(number)
    assert sum(is_resident(engine, number) for number in range(6)) == 4
