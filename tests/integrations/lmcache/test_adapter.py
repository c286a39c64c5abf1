"""`KVPoolL2Adapter` through LMCache's factory: objects come back as they were, or are missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidOptionError, InvalidSizeError, PluginError, TierError
from kvpool.tiers.disk import DiskTier
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.engines

MakeCalls = Callable[..., Any]
POOL = {"pool": "1MiB"}


def disk(path: Path, capacity: str = "64MiB", **options: Any) -> dict[str, Any]:
    return {"tiers": [f"disk:{path / 'kv'}?capacity={capacity}"], **options}


def keep(parts: Any, calls: Any, *numbers: int, **other: Any) -> Any:
    """Store objects whose bytes follow from their numbers."""
    keys = [parts.key_of(number, **other) for number in numbers]
    return calls.store(keys, [parts.made(number) for number in numbers])


def load(parts: Any, calls: Any, *numbers: int, **other: Any) -> list[bool]:
    """Load objects into zeros; each is as it was, or untouched."""
    objects = [parts.made(None) for _ in numbers]
    untouched = parts.read(parts.made(None))
    found: list[bool] = calls.load([parts.key_of(one, **other) for one in numbers], objects)
    for number, there, one in zip(numbers, found, objects, strict=True):
        assert parts.read(one) == (parts.read(parts.made(number)) if there else untouched)
    return found


# -- objects come back -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "uint8"])
def test_objects_of_every_type_come_back(parts: Any, make: MakeCalls, dtype: str) -> None:
    calls, chosen = make(POOL), getattr(parts.torch, dtype)
    keys = [parts.key_of(number) for number in (1, 2)]
    kept = calls.store(keys, [parts.made(number, chosen) for number in (1, 2)])
    assert kept.is_successful()
    assert calls.look(keys, chosen) == [True, True]
    objects = [parts.made(None, chosen) for _ in keys]
    assert calls.load(keys, objects) == [True, True]
    wanted = [parts.read(parts.made(number, chosen)) for number in (1, 2)]
    assert [parts.read(one) for one in objects] == wanted


def test_what_was_never_stored_is_missing(parts: Any, make: MakeCalls) -> None:
    calls = make(POOL)
    keep(parts, calls, 1, 3)
    assert calls.look([parts.key_of(number) for number in (1, 2, 3)]) == [True, False, True]
    assert load(parts, calls, 1, 2, 3) == [True, False, True]


@pytest.mark.parametrize(
    "other",
    [
        {"model_name": "another/model"},
        {"kv_rank": 1},
        {"object_group_id": 1},
        {"cache_salt": "tenant"},
    ],
    ids=str,
)
def test_keys_that_differ_in_anything_share_nothing(
    parts: Any, make: MakeCalls, other: dict[str, Any]
) -> None:
    calls = make(POOL)
    keep(parts, calls, 1)
    assert calls.look([parts.key_of(1, **other)]) == [False]
    assert load(parts, calls, 1, **other) == [False]


def test_another_type_shares_nothing(parts: Any, make: MakeCalls) -> None:
    calls = make(POOL)
    keep(parts, calls, 1)  # as bfloat16
    assert calls.look([parts.key_of(1)], parts.torch.float16) == [False]
    assert calls.load([parts.key_of(1)], [parts.made(None, parts.torch.float16)]) == [False]


def test_a_later_life_loads_from_a_tier(parts: Any, make: MakeCalls, tmp_path: Path) -> None:
    first = make(disk(tmp_path))
    keep(parts, first, 1, 2)
    first.adapter.close()
    second = make(disk(tmp_path, **POOL))
    assert second.look([parts.key_of(number) for number in (1, 2, 3)]) == [True, True, False]
    assert load(parts, second, 1, 2, 3) == [True, True, False]
    assert load(parts, second, 1, 2) == [True, True]
    stats = second.adapter.store.stats()
    assert (stats.tier_hits, stats.pool_hits) == (2, 2)  # a tier hands up what it had


def test_models_are_kept_apart_by_their_id(parts: Any, make: MakeCalls, tmp_path: Path) -> None:
    first = make(disk(tmp_path, model_id="weights 1"))
    keep(parts, first, 1)
    first.adapter.close()
    assert load(parts, make(disk(tmp_path, model_id="weights 2")), 1) == [False]


def test_many_threads_call_one_adapter(parts: Any, make: MakeCalls) -> None:
    calls, failures = make({"pool": "4MiB"}), list[BaseException]()
    adapter = calls.adapter
    keep(parts, calls, *range(8))

    def ask() -> None:
        try:
            for number in range(8):
                target = parts.made(None)
                task = adapter.submit_load_task([parts.key_of(number)], [target])
                while (found := adapter.query_load_result(task)) is None:
                    time.sleep(0.001)
                assert found.test(0)
                assert parts.read(target) == parts.read(parts.made(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# -- what LMCache asks beside objects --------------------------------------------------------


def test_it_tells_of_its_use_and_its_state(parts: Any, make: MakeCalls, tmp_path: Path) -> None:
    calls = make(disk(tmp_path, **POOL))
    keep(parts, calls, 1)
    usage, state = calls.adapter.get_usage(), calls.adapter.report_status()
    assert usage.total_bytes_used >= len(parts.read(parts.made(1)))
    assert usage.total_capacity_bytes == 0
    assert state["is_healthy"]
    assert (state["kept"], state["misses"], list(state["tiers"].values())) == (1, 0, ["closed"])
    calls.adapter.close()
    assert not calls.adapter.report_status()["is_healthy"]


def test_a_full_pool_forgets_the_earliest(parts: Any, make: MakeCalls) -> None:
    size = len(parts.read(parts.made(1)))
    calls = make({"pool": 8 * size})
    for number in range(16):
        keep(parts, calls, number)
    assert load(parts, calls, 15) == [True]
    assert load(parts, calls, 0) == [False]


def test_a_store_above_the_backlog_is_reported_as_failed(parts: Any, make: MakeCalls) -> None:
    calls = make({"backlog": len(parts.read(parts.made(1))) // 2, **POOL})
    kept = keep(parts, calls, 1)
    assert not kept.is_successful()
    assert load(parts, calls, 1) == [False]


# -- faults ----------------------------------------------------------------------------------


def test_a_server_that_dies_is_a_miss(parts: Any, make: MakeCalls, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        calls = make({"tiers": [server.url], "load_budget": 2})
        keep(parts, calls, 1, 2)
        calls.adapter.store.drain(60)
        assert load(parts, calls, 1) == [True]
        server.kill()
        assert load(parts, calls, 1, 2) == [False, False]
        assert calls.look([parts.key_of(1)]) == [False]
        keep(parts, calls, 3)  # and it does not stand still


def test_a_server_that_hangs_is_a_miss(parts: Any, make: MakeCalls, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        calls = make({"tiers": [server.url], "load_budget": 0.5, "drain": 0.5})
        keep(parts, calls, 1)
        calls.adapter.store.drain(60)  # else a load finds it in the queue
        server.pause()
        try:
            assert load(parts, calls, 1) == [False]
        finally:
            server.go_on()


def test_a_damaged_object_is_missing_and_can_be_stored_again(
    parts: Any, make: MakeCalls, tmp_path: Path
) -> None:
    first = make(disk(tmp_path))
    keep(parts, first, 1)
    first.adapter.close()
    end = parts.read(parts.made(1))[-8:]
    with DiskTier(tmp_path / "kv", 64 << 20) as tier:
        (key,) = tier.keys()
        with tier.read([key]) as (value,):
            assert value is not None
            wrong = bytes(value).replace(end, bytes(8))
        tier.remove([key])
        tier.write([(key, [wrong])])
    second = make(disk(tmp_path))
    assert load(parts, second, 1) == [False]
    keep(parts, second, 1)
    second.adapter.store.drain(60)
    assert load(parts, second, 1) == [True]


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "pool"),
        ({"pool": "1MiB", "size": 3}, "size"),
        ({"pool": "1MiB", "model_id": 3}, '"model_id" must be a text, not 3'),
    ],
    ids=str,
)
def test_options_that_are_wrong_are_told(
    make: MakeCalls, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make(params)


def test_a_size_that_is_wrong_is_told(make: MakeCalls) -> None:
    with pytest.raises(InvalidSizeError, match="much"):
        make({"pool": "much"})


def test_a_tier_that_cannot_be_opened_is_told(make: MakeCalls, tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("not a directory")
    with pytest.raises(TierError, match="kv"):
        make(disk(tmp_path))
    with pytest.raises(PluginError, match="nowhere"):
        make({"tiers": ["nowhere:kv"]})
