"""`KVPoolStorage` through SGLang's factory: pages come back as they were, or are missing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidOptionError, PluginError, TierError
from kvpool.tiers.disk import DiskTier
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.engines

MakeStorage = Callable[..., Any]
POOL = {"pool": "1MiB"}


def disk(path: Path, capacity: str = "64MiB", **options: Any) -> dict[str, Any]:
    return {"tiers": [f"disk:{path / 'kv'}?capacity={capacity}"], **options}


def name(number: int) -> str:
    """Return the hash of a page, as SGLang has it."""
    return f"{number:064x}"


def names(*numbers: int) -> list[str]:
    return [name(number) for number in numbers]


def keep(parts: Any, storage: Any, *numbers: int) -> list[bool]:
    """Back pages up, whose bytes are those of their numbers."""
    parts.fill(storage.mem_pool_host, *numbers)
    places = parts.indices(*range(len(numbers)))
    kept: list[bool] = storage.batch_set_v1(names(*numbers), places)
    return kept


def load(parts: Any, storage: Any, *numbers: int) -> list[bool]:
    """Load pages to a pool of zeros; each is as it was, or untouched, in this pool."""
    pool = storage.mem_pool_host
    wanted, untouched = [], bytes(len(parts.page_of(pool, 0)))
    for number in numbers:
        parts.fill(pool, number)
        wanted.append(parts.page_of(pool, 0))
    pool.kv_buffer.zero_()
    found: list[bool] = storage.batch_get_v1(
        names(*numbers), parts.indices(*range(1, len(numbers) + 1))
    )
    for place, (there, page) in enumerate(zip(found, wanted, strict=True), 1):
        assert parts.page_of(pool, place) == (page if there else untouched)
    assert parts.page_of(pool, 0) == untouched
    return found


# -- pages come back -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["layer_first", "page_first", "page_first_direct", "page_head"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_pages_of_every_layout_and_type_come_back(
    parts: Any, make: MakeStorage, layout: str, dtype: str
) -> None:
    storage = make(POOL, parts.make_pool(layout, getattr(parts.torch, dtype)))
    assert load(parts, storage, 1, 2) == [False, False]
    assert keep(parts, storage, 1, 2, 3) == [True] * 3
    assert load(parts, storage, 1, 2, 3) == [True] * 3
    assert storage.store.stats().pool_hits == 3


def test_the_layouts_are_those_of_sglang(parts: Any) -> None:
    assert set(parts.LAYOUTS) == {"layer_first", "page_first", "page_first_direct", "page_head"}


def test_another_process_loads_from_a_tier(parts: Any, make: MakeStorage, tmp_path: Path) -> None:
    first = make(disk(tmp_path), parts.make_pool())
    assert keep(parts, first, 1, 2, 3) == [True] * 3
    first.close()
    second = make(disk(tmp_path, **POOL), parts.make_pool())
    assert second.batch_exists(names(1, 2, 3, 4)) == 3
    assert load(parts, second, 1, 2, 3, 4) == [True, True, True, False]
    assert load(parts, second, 1, 2, 3) == [True] * 3
    stats = second.store.stats()
    assert (stats.tier_hits, stats.pool_hits) == (3, 3)  # a tier hands up what it had


def test_what_follows_a_missing_page_is_not_loaded(parts: Any, make: MakeStorage) -> None:
    storage = make(POOL, parts.make_pool())
    keep(parts, storage, 1, 3)
    assert storage.batch_exists(names(1, 2, 3)) == 1
    parts.fill(storage.mem_pool_host, 9, 9, 9)
    before = parts.page_of(storage.mem_pool_host, 0)
    storage.batch_get_v1(names(1, 2, 3), parts.indices(0, 1, 2))
    assert parts.page_of(storage.mem_pool_host, 0) != before
    assert parts.page_of(storage.mem_pool_host, 2) == before


def test_many_pages_are_moved_a_few_at_a_time(
    parts: Any, make: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("kvpool.integrations._sglang.storage")
    monkeypatch.setattr(module, "_AT_ONCE", 2 * len(parts.page_of(parts.make_pool(), 0)))
    storage = make(POOL, parts.make_pool())
    assert keep(parts, storage, 1, 2, 3, 4, 5) == [True] * 5
    assert load(parts, storage, 1, 2, 3, 4, 5) == [True] * 5
    assert load(parts, storage, 1, 8, 3, 4, 5) == [True, False, False, False, False]


def test_values_and_pages_are_the_same(parts: Any, make: MakeStorage) -> None:
    pool = parts.make_pool()
    storage = make(POOL, pool)
    parts.fill(pool, 1, 2)
    pages = [pool.get_data_page(place * parts.PAGE).clone() for place in (0, 1)]
    assert storage.batch_set(names(1, 2), pages)
    assert storage.set(name(3), pages[0])
    assert [storage.exists(one) for one in names(1, 2, 3, 4)] == [True, True, True, False]
    targets = [pool.get_dummy_flat_data_page() for _ in range(3)]
    one, two, missing = storage.batch_get(names(1, 2, 4), targets)
    assert one is targets[0]
    assert parts.torch.equal(one.view(parts.torch.uint8), pages[0].view(parts.torch.uint8))
    assert parts.torch.equal(two.view(parts.torch.uint8), pages[1].view(parts.torch.uint8))
    assert missing is None
    new = storage.get(name(3))
    assert parts.torch.equal(new.view(parts.torch.uint8), pages[0].view(parts.torch.uint8))
    assert load(parts, storage, 1, 2) == [True, True]


def test_values_without_a_pool_need_a_target(parts: Any, make: MakeStorage) -> None:
    storage = make(POOL)
    value = parts.torch.arange(12.0).reshape(3, 4)
    assert storage.set(name(1), value.T)
    assert storage.get(name(1)) is None
    target = parts.torch.zeros(3, 4).T
    assert storage.get(name(1), target) is target
    assert parts.torch.equal(target, value.T)
    assert storage.batch_get(names(1)) == [None]
    assert not storage.set(name(2))


def test_a_pool_without_memory_has_pages_that_were_stored(parts: Any, make: MakeStorage) -> None:
    storage = make(POOL, parts.LogicalHostPool(32, parts.PAGE))
    places = parts.indices(0, 1)
    assert storage.batch_get_v1(names(1, 2), places) == [False, False]
    assert storage.batch_set_v1(names(1, 2), places) == [True, True]
    assert storage.batch_get_v1(names(1, 2, 3), parts.indices(2, 3, 4)) == [True, True, False]
    assert storage.get(name(1)).nbytes == 0


def test_every_call_takes_what_sglang_passes(parts: Any, make: MakeStorage) -> None:
    ours = type(make(POOL))
    for call, method in inspect.getmembers(parts.HiCacheStorage, inspect.isfunction):
        wanted = list(inspect.signature(method).parameters)
        assert list(inspect.signature(getattr(ours, call)).parameters) == wanted, call


# -- who shares pages ------------------------------------------------------------------------


def finds(parts: Any, make: MakeStorage, path: Path, pool: Any = None, **config: Any) -> bool:
    """Return whether an engine finds the first page."""
    options = disk(path, **config.pop("options", {}))
    storage = make(options, parts.make_pool() if pool is None else pool, **config)
    found: bool = storage.exists(name(1))
    if found:
        assert load(parts, storage, 1) == [True]
    storage.close()
    return found


def test_pages_are_those_of_a_rank_a_model_and_a_layout(
    parts: Any, make: MakeStorage, tmp_path: Path
) -> None:
    first = make(disk(tmp_path), parts.make_pool(), tp_rank=1, tp_size=2)
    keep(parts, first, 1)
    first.close()

    def found(pool: Any = None, **config: Any) -> bool:
        both = {"tp_rank": 1, "tp_size": 2} | config
        return finds(parts, make, tmp_path, pool, **both)

    assert found()
    assert found(dp_rank=3)  # another replica of the same ranks
    assert not found(tp_rank=0)
    assert not found(tp_size=4)
    assert not found(pp_rank=1, pp_size=2)
    assert not found(attn_cp_rank=1, attn_cp_size=2)
    assert not found(model_name="acme/model-8b")
    assert not found(options={"model_id": "acme/model-7b@2"})
    assert not found(parts.make_pool("layer_first"))
    assert not found(parts.make_pool(dtype=parts.torch.float16))
    assert not found(parts.make_pool(heads=4, layers=3))


def test_ranks_of_a_model_with_latent_attention_share_pages(
    parts: Any, make: MakeStorage, tmp_path: Path
) -> None:
    pools = [(parts.PoolName.MAMBA, parts.make_pool())]
    first = make(disk(tmp_path), parts.make_pool(), pools, is_mla_model=True, tp_size=2)
    keep(parts, first, 1)
    first.batch_set_v2(transfers(parts, parts.PoolName.MAMBA, 1))
    first.close()
    second = make(disk(tmp_path), parts.make_pool(), pools, is_mla_model=True, tp_rank=1, tp_size=2)
    assert load(parts, second, 1) == [True]
    states = second.batch_get_v2(transfers(parts, parts.PoolName.MAMBA, 1))
    assert states == {parts.PoolName.MAMBA: [False]}


def test_other_weights_in_the_same_folder_find_nothing(
    parts: Any, make: MakeStorage, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(3 << 20))
    first = make(disk(tmp_path), parts.make_pool(), model_name=str(model))
    keep(parts, first, 1)
    first.close()
    assert finds(parts, make, tmp_path, model_name=str(model))
    (model / "model.safetensors").write_bytes(bytes((3 << 20) - 1) + b"x")
    assert not finds(parts, make, tmp_path, model_name=str(model))


# -- several pools ---------------------------------------------------------------------------


def transfers(parts: Any, pool: str, *numbers: int, **options: Any) -> list[Any]:
    places = parts.indices(*range(len(numbers)))
    return [parts.PoolTransfer(pool, places, keys=names(*numbers), **options)]


def test_pages_of_several_pools_come_back(parts: Any, make: MakeStorage) -> None:
    draft = parts.make_pool("layer_first", layers=1)
    storage = make(POOL, parts.make_pool(), [("draft", draft)])
    parts.fill(draft, 7, 8)
    page = parts.page_of(draft, 1)
    assert storage.batch_set_v2(transfers(parts, "draft", 1, 2)) == {"draft": [True, True]}
    assert not storage.exists(name(1))  # in the pool of keys and values
    draft.kv_buffer.zero_()
    found = storage.batch_get_v2(transfers(parts, "draft", 1, 2, 3))
    assert found == {"draft": [True, True, False]}
    assert parts.page_of(draft, 1) == page


@pytest.mark.parametrize(
    ("policy", "window", "stored", "usable"),
    [
        ("ALL_PAGES", 0, (1, 2, 4), [1, 2]),
        ("ALL_PAGES", 0, (2, 3, 4), []),
        ("TRAILING_PAGES", 1, (2, 4), [2, 4]),
        ("TRAILING_PAGES", 2, (1, 2, 4), [1, 2]),
        ("TRAILING_PAGES", 2, (3, 4), [4]),
        ("BLOCK_GROUPS", 0, (), [1, 2, 3, 4]),
    ],
)
def test_a_prompt_is_as_long_as_every_pool_allows(
    parts: Any,
    make: MakeStorage,
    policy: str,
    window: int,
    stored: tuple[int, ...],
    usable: list[int],
) -> None:
    storage = make(POOL, parts.make_pool(), [("mamba", parts.make_pool())])
    keep(parts, storage, 1, 2, 3, 4)
    for number in stored:
        storage.batch_set_v2(transfers(parts, "mamba", number))
    (asked,) = transfers(parts, "mamba", *range(window), hit_policy=parts.PoolHitPolicy[policy])
    result = storage.batch_exists_v2(names(1, 2, 3, 4, 5), [asked])
    assert result.restorable_prefix_pages == usable
    assert result.kv_hit_pages == (usable[-1] if usable else 0)
    wanted = {parts.PoolName.KV: 4}
    if usable and policy != "BLOCK_GROUPS":
        wanted["mamba"] = usable[-1]
    assert result.extra_pool_hit_pages == wanted


def test_nothing_is_found_in_an_empty_storage(parts: Any, make: MakeStorage) -> None:
    storage = make(POOL, parts.make_pool())
    result = storage.batch_exists_v2(names(1), transfers(parts, "mamba", 1))
    assert (result.kv_hit_pages, result.extra_pool_hit_pages) == (0, {})
    assert storage.batch_exists([]) == 0
    assert storage.batch_get_v1([], parts.indices()) == []
    assert storage.batch_set([], [])


# -- what goes wrong -------------------------------------------------------------------------


def test_a_full_pool_evicts_or_refuses(parts: Any, make: MakeStorage) -> None:
    size = len(parts.page_of(parts.make_pool(), 0))
    storage = make({"pool": 2 * size, "backend": "numpy"}, parts.make_pool())
    assert keep(parts, storage, 1, 2) == [True, True]
    assert keep(parts, storage, 3) == [True]
    assert storage.store.manager.get_stats().evictions == 1
    assert load(parts, storage, 3) == [True]
    small = make({"pool": size // 2, "backend": "numpy"}, parts.make_pool())
    assert keep(parts, small, 1) == [False]
    assert load(parts, small, 1) == [False]


def test_a_damaged_page_is_missing_and_can_be_stored_again(
    parts: Any, make: MakeStorage, tmp_path: Path
) -> None:
    first = make(disk(tmp_path), parts.make_pool())
    keep(parts, first, 1)
    page = parts.page_of(first.mem_pool_host, 0)
    first.close()
    with DiskTier(tmp_path / "kv", 64 << 20) as tier:
        (key,) = tier.keys()
        with tier.read([key]) as (value,):
            assert value is not None
            wrong = bytes(value).replace(page[-8:], bytes(8))
        tier.remove([key])
        tier.write([(key, [wrong])])
    second = make(disk(tmp_path), parts.make_pool())
    assert load(parts, second, 1) == [False]
    assert keep(parts, second, 1) == [True]
    second.store.drain(60)
    assert load(parts, second, 1) == [True]


def test_a_server_that_hangs_or_dies_is_a_miss(
    parts: Any, make: MakeStorage, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as server:
        options = {"tiers": [f"{server.url}?budget=1"], "drain": 0.2}
        storage = make(options, parts.make_pool())
        keep(parts, storage, 1, 2)
        storage.store.drain(60)
        assert load(parts, storage, 1, 2) == [True, True]
        server.pause()
        assert load(parts, storage, 1, 2) == [False, False]
        assert storage.batch_exists(names(1)) == 0
        with pytest.raises(TierError, match="is not empty: a tier does not answer"):
            storage.clear()
        server.go_on()
        server.kill()
        assert load(parts, storage, 1, 2) == [False, False]
        keep(parts, storage, 3)  # kept or not, it does not raise


def test_nothing_raises_into_the_threads_of_sglang(
    parts: Any,
    make: MakeStorage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = make(POOL, parts.make_pool())
    keep(parts, storage, 1)

    def fail(*_: Any) -> list[bool]:
        raise MemoryError

    for call in "load", "put", "contains":
        monkeypatch.setattr(storage.store, call, fail)
    assert load(parts, storage, 1) == [False]
    assert keep(parts, storage, 1) == [False]
    assert not storage.exists(name(1))
    assert storage.batch_exists_v2(names(1)).kv_hit_pages == 0
    page = storage.mem_pool_host.get_dummy_flat_data_page()
    assert not storage.set(name(1), page)
    assert storage.get(name(1), page) is None
    assert "a look-up of pages has failed" in caplog.text


def test_indices_that_do_not_fit_move_nothing(
    parts: Any, make: MakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make(POOL, parts.make_pool(pages=4))
    assert storage.batch_set_v1(names(1, 2), parts.indices(0)) == [False, False]
    assert "2 pages of 4 tokens need 8 host indices, not 4" in caplog.text
    assert storage.batch_set_v1(names(1), parts.indices(4)) == [False]
    assert "the one at index 16 has 0" in caplog.text
    assert storage.batch_get_v1(names(1), None) == [False]
    unknown = transfers(parts, "draft", 1)
    assert storage.batch_set_v2(unknown) == {"draft": [False]}
    assert storage.batch_exists(names(1)) == 0


# -- the rest --------------------------------------------------------------------------------


def test_clear_leaves_nothing(parts: Any, make: MakeStorage, tmp_path: Path) -> None:
    storage = make(disk(tmp_path, **POOL), parts.make_pool())
    keep(parts, storage, 1, 2, 3)
    storage.clear()
    assert storage.batch_exists(names(1)) == 0
    assert storage.store.manager.keys() == []
    (level,) = storage.store.tiers.levels
    assert list(level.breaker.keys()) == []
    assert keep(parts, storage, 1) == [True]  # it is written anew
    storage.close()
    second = make(disk(tmp_path), parts.make_pool())
    assert load(parts, second, 1) == [True]


def test_figures_are_those_since_the_last_call(parts: Any, make: MakeStorage) -> None:
    assert make(POOL, parts.make_pool()).get_stats() is None
    storage = make(POOL, parts.make_pool(), enable_storage_metrics=True)
    keep(parts, storage, 1, 2)
    load(parts, storage, 1, 3)
    stats = storage.get_stats()
    assert (stats.backup_pgs, stats.prefetch_pgs) == ([2], [1])
    assert stats.backup_bandwidth[0] > 0
    assert stats.prefetch_bandwidth[0] > 0
    assert storage.get_stats().backup_pgs == []


def test_it_can_be_closed_twice(parts: Any, make: MakeStorage) -> None:
    storage = make(POOL, parts.make_pool())
    storage.close()
    storage.close()
    assert load(parts, storage, 1) == [False]
    assert keep(parts, storage, 1) == [False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InvalidOptionError, 'blocks need a place: give "pool"'),
        ({"pool": "1MiB", "capacity": 3}, InvalidOptionError, "there is no option 'capacity'"),
        ({"pool": "1MiB", "threads": 3}, InvalidOptionError, "'threads' is not an option here"),
        ({"pool": "1MiB", "model_id": 3}, InvalidOptionError, '"model_id" must be a text, not 3'),
        ({"tiers": ["nowhere:x"]}, PluginError, "nowhere"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(
    parts: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        parts.make_storage(options, None, ())
