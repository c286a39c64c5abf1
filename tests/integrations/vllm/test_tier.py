"""`KVPoolTier` under vLLM's own manager: chunks come back as they were, or are computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidOptionError, PluginError
from kvpool.tiers import Item, open_tier
from kvpool.tiers.disk import DiskTier
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.engines

MakeOffloading = Callable[..., Any]


def disk(path: Path, capacity: str = "64MiB", **options: Any) -> dict[str, Any]:
    return {"type": "kvpool", "tiers": [f"disk:{path / 'kv'}?capacity={capacity}"], **options}


# -- chunks come back ------------------------------------------------------------------------


@pytest.mark.parametrize("blocks_per_chunk", [1, 3])
def test_a_new_engine_loads_what_another_has_computed(
    make: MakeOffloading, tmp_path: Path, blocks_per_chunk: int
) -> None:
    first = make(disk(tmp_path), blocks_per_chunk=blocks_per_chunk)
    assert first.load(1, 2, 3) == 0
    assert first.store(1, 2, 3) == [1, 2, 3]
    first.close()
    second = make(disk(tmp_path), blocks_per_chunk=blocks_per_chunk)
    assert second.load(1, 2, 3, 4) == 3
    assert second.tier.store.stats().tier_hits == 3


@pytest.mark.parametrize("options", [{"pool": "1MiB"}, {"tiers": ["memory:"]}])
def test_it_keeps_more_than_the_memory_of_vllm(
    make: MakeOffloading, options: dict[str, Any]
) -> None:
    engine = make({"type": "kvpool", **options}, chunks=4)
    for number in range(0, 12, 2):
        engine.store(number, number + 1)
    engine.tier.store.drain(60)
    for number in range(0, 12, 2):
        assert engine.load(number, number + 1) == 2


def test_a_pool_evicts_by_its_policy(make: MakeOffloading) -> None:
    engine = make({"type": "kvpool", "pool": 6 * 4096, "policy": "lru"}, chunks=2)
    for number in range(12):
        engine.store(number)
    found = [engine.look(number) for number in range(12)]
    assert sum(found) <= 8
    assert found[-6:] == [1] * 6
    assert engine.tier.store.manager.get_stats().evictions == 12 - 6


def test_what_vllm_has_counts_as_used_in_the_pool(make: MakeOffloading) -> None:
    engine = make({"type": "kvpool", "pool": 3 * 4096, "policy": "lru"}, chunks=16)
    engine.store(1, 2, 3)
    engine.manager.touch([key_of(engine, 3)], engine.begin())
    engine.store(4)
    engine.forget()
    assert [engine.look(number) for number in (1, 2, 3, 4)] == [1, 0, 1, 1]


def key_of(engine: Any, number: int) -> bytes:
    assert engine.tier
    return number.to_bytes(32, "big") + bytes(4)


def test_two_tiers_are_asked_in_order(make: MakeOffloading, tmp_path: Path) -> None:
    first = make(disk(tmp_path))
    first.store(1)
    first.close()
    engine = make({"type": "kvpool", "pool": "1MiB"}, disk(tmp_path))
    assert engine.load(1) == 1
    assert engine.manager.secondary_tiers[1].store.stats().tier_hits == 1


# -- another engine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"model": "acme/model-8b"},
        {"blocks_per_chunk": 2},
    ],
)
def test_an_engine_finds_only_what_it_would_compute(
    make: MakeOffloading, tmp_path: Path, other: dict[str, Any]
) -> None:
    first = make(disk(tmp_path))
    first.store(1)
    first.close()
    assert finds(make(disk(tmp_path), **other)) == 0
    assert finds(make(disk(tmp_path, model_id="acme/model-7b@2"))) == 0
    assert finds(make(disk(tmp_path))) == 1


def test_other_weights_in_the_same_folder_find_nothing(
    make: MakeOffloading, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(3 << 20))
    first = make(disk(tmp_path), model=str(model))
    first.store(1)
    first.close()
    assert finds(make(disk(tmp_path), model=str(model))) == 1
    (model / "model.safetensors").write_bytes(bytes((3 << 20) - 1) + b"x")
    assert finds(make(disk(tmp_path), model=str(model))) == 0


def finds(engine: Any) -> int:
    """Return whether an engine loads the first chunk."""
    found: int = engine.load(1)
    engine.close()
    return found


# -- what goes wrong -------------------------------------------------------------------------


def test_a_damaged_chunk_is_computed_again(make: MakeOffloading, tmp_path: Path) -> None:
    first = make(disk(tmp_path))
    for number in 1, 2, 3:
        first.store(number)
        first.tier.store.drain(60)
    first.close()
    with DiskTier(tmp_path / "kv", 64 << 20) as tier:
        damaged = damage(tier, first.contents(2, 0)[1].tobytes())
        assert damaged == 1
    engine = make(disk(tmp_path))
    assert engine.load(1, 2, 3) == 1
    assert engine.store(1, 2, 3) == [2]  # the other two came from the tier
    engine.tier.store.drain(60)
    engine.forget()
    assert engine.load(1, 2, 3) == 3


def damage(tier: DiskTier, part: bytes) -> int:
    """Change a byte of the values that contain some bytes; return how many."""
    values: dict[bytes, bytes] = {}
    for name in list(tier.keys()):
        with tier.read([name]) as (value,):
            assert value is not None
            values[name] = bytes(value)
    wrong: list[Item] = [
        (name, [value.replace(part, part[:-1] + bytes([part[-1] ^ 1]))])
        for name, value in values.items()
        if part in value
    ]
    tier.remove([name for name, _ in wrong])
    return tier.write(wrong)


def test_a_full_tier_evicts_and_the_engine_goes_on(make: MakeOffloading, tmp_path: Path) -> None:
    engine = make(disk(tmp_path, "4MiB"), chunks=4)
    for number in range(200):
        assert engine.store(number) == [number]
        if number % 20 == 0:
            engine.tier.store.drain(60)
    engine.tier.store.drain(60)
    assert engine.load(199) == 1


def test_a_full_backlog_sheds_stores(make: MakeOffloading) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB", "backlog": 4096})
    assert engine.store(1, 2) == [1, 2]  # more at once than may wait
    assert engine.store(3) == [3]
    assert engine.tier.store.stats().kept == 1
    assert engine.load(1, 2) == 2  # from the memory of vLLM
    engine.forget()
    assert [engine.load(number) for number in (1, 2, 3)] == [0, 0, 1]


def test_a_server_that_hangs_or_dies_is_a_miss(make: MakeOffloading, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        url = f"{server.url}?budget=1"
        first = make({"type": "kvpool", "tiers": [url]})
        first.store(1, 2)
        first.close()
        engine = make({"type": "kvpool", "tiers": [url]}, chunks=3)
        assert engine.load(1, 2) == 2
        server.pause()
        engine.forget()
        assert engine.load(1, 2) == 0
        assert engine.store(3, 4) == [3, 4]
        server.go_on()
        server.kill()
        engine.forget()
        assert engine.load(3, 4) == 0
        assert engine.store(5, 6) == [5, 6]
        assert engine.load(5, 6) == 2  # from the memory of vLLM


def test_a_store_that_raises_fails_no_engine(
    make: MakeOffloading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB"})
    engine.store(1)
    engine.forget()

    def fail(_: Sequence[Any]) -> list[bool]:
        raise MemoryError

    monkeypatch.setattr(engine.tier.store, "load", fail)
    assert engine.load(1) == 0
    monkeypatch.setattr(engine.tier.store, "put", fail)
    assert engine.store(2) == [2]
    assert engine.load(2) == 1
    assert "a transfer of blocks has failed" in caplog.text


def test_a_store_that_does_not_close_keeps_no_memory_of_vllm(
    make: MakeOffloading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB"})
    close = engine.tier.store.close

    def fail() -> None:
        close()
        raise OSError("the disk is gone")

    monkeypatch.setattr(engine.tier.store, "close", fail)
    engine.close()
    assert "kvpool does not close: the disk is gone" in caplog.text


def test_transfers_under_way_end_before_the_memory_is_reset(make: MakeOffloading) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB"})
    context = engine.begin()
    output = engine.manager.prepare_store([key_of(engine, 1)], context)
    engine.manager.complete_store(output.keys_to_store, context)
    engine.manager.on_request_finished(context)
    engine.forget()
    assert engine.tier.store.stats().kept == 1
    assert engine.look(1) == 1


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InvalidOptionError, 'blocks need a place: give "pool"'),
        ({"pool": "1MiB", "capacity": 3}, InvalidOptionError, "there is no option 'capacity'"),
        ({"pool": "1MiB", "locality": "NEAR"}, InvalidOptionError, "LOCAL, REMOTE, not 'NEAR'"),
        ({"tiers": ["nowhere:x"]}, PluginError, "nowhere"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(
    parts: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        parts.Offloading({"type": "kvpool", **options})


def test_locality_is_told_to_vllm(make: MakeOffloading) -> None:
    engine = make({"type": "kvpool", "pool": "1MiB", "locality": "REMOTE"})
    assert engine.tier.locality.value == "REMOTE"


def test_a_tier_of_vllm_may_stand_beside_it(make: MakeOffloading) -> None:
    engine = make({"type": "example"}, {"type": "kvpool", "tiers": ["memory:"]})
    assert engine.store(1) == [1]
    assert open_tier("memory:").name == "memory:"
