"""What rearranges the sequences of a batch, and what drops tokens."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidTokensError, PoolExhaustedError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

KEY = CacheKey("transformers", "chat-42")

CALLS: dict[str, Any] = {
    "reorder": lambda hf, cache: cache.reorder_cache(hf.torch.tensor([2, 2, 0, 1])),
    "reorder nothing": lambda hf, cache: cache.reorder_cache(hf.torch.arange(4)),
    "reorder to one": lambda hf, cache: cache.reorder_cache(hf.torch.tensor([3, 3, 3, 3])),
    "repeat": lambda _hf, cache: cache.batch_repeat_interleave(3),
    "repeat once": lambda _hf, cache: cache.batch_repeat_interleave(1),
    "select": lambda hf, cache: cache.batch_select_indices(hf.torch.tensor([3, 1])),
    "select by mask": lambda hf, cache: cache.batch_select_indices(
        hf.torch.tensor([True, False, False, True])
    ),
    "crop": lambda _hf, cache: cache.crop(-3),
    "crop nothing": lambda _hf, cache: cache.crop(0),
    "crop all": lambda _hf, cache: cache.crop(-7),
}


def filled(hf: Any, manager: KVCacheManager, rows: int = 4, dtype: str = "float32") -> list[Any]:
    """Return a pooled and a dynamic cache that hold the same batch."""
    caches = [
        hf.PooledCache.for_model(manager, hf.model(dtype=dtype), "chat-42"),
        hf.DynamicCache(),
    ]
    for cache in caches:
        hf.forward(hf.model(dtype=dtype), hf.words(7, rows), cache)
    return caches


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_does_what_it_does_to_a_dynamic_cache(
    hf: Any, manager: KVCacheManager, name: str, dtype: str
) -> None:
    pooled, dynamic = filled(hf, manager, dtype=dtype)
    for cache in (pooled, dynamic):
        CALLS[name](hf, cache)
    assert hf.same_cache(pooled, dynamic)
    assert pooled.get_seq_length() == dynamic.get_seq_length()
    step = hf.words(2, pooled.batch_size, seed=5)
    model = hf.model(dtype=dtype)
    mine, theirs = hf.forward(model, step, pooled), hf.forward(model, step, dynamic)
    assert hf.torch.equal(mine, theirs)
    assert manager.session_keys() == [KEY]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_a_cache_without_tokens_does_nothing(
    hf: Any, manager: KVCacheManager, name: str
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    CALLS[name](hf, cache)
    assert cache.get_seq_length() == 0
    assert len(manager) == 0


def test_a_positive_crop_says_what_to_keep(hf: Any, manager: KVCacheManager) -> None:
    cache, _ = filled(hf, manager)
    first = cache.layers[0].keys[:, :, :5].clone()
    cache.crop(9)
    assert cache.get_seq_length() == 7
    cache.crop(5)
    assert hf.torch.equal(cache.layers[0].keys, first)
    cache.crop(-99)
    assert cache.get_seq_length() == 0


def test_a_batch_is_found_again(hf: Any, manager: KVCacheManager) -> None:
    filled(hf, manager)
    again = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    assert again.batch_size == 4
    assert again.layers[1].values.shape == (4, 2, 7, 8)


def test_rows_cannot_change_on_the_way(hf: Any, manager: KVCacheManager) -> None:
    pooled, dynamic = filled(hf, manager)
    with pytest.raises(InvalidTokensError, match="holds a batch of 4, keys come for 2"):
        hf.forward(hf.model(), hf.words(1, rows=2), pooled)
    assert hf.same_cache(pooled, dynamic)


def test_after_a_reset_another_batch_may_come(hf: Any, manager: KVCacheManager) -> None:
    pooled, dynamic = filled(hf, manager)
    room = manager.get_stats().used_memory
    for cache in (pooled, dynamic):
        cache.reset()
    assert pooled.get_seq_length() == 0
    step = hf.words(3, rows=1, seed=9)
    mine, theirs = hf.forward(hf.model(), step, pooled), hf.forward(hf.model(), step, dynamic)
    assert hf.torch.equal(mine, theirs)
    assert pooled.batch_size == 1
    assert manager.get_stats().used_memory == room // 4


def test_a_batch_that_does_not_fit_leaves_the_session_as_it_was(
    hf: Any, make_manager: MakeManager
) -> None:
    layout = KVLayout.from_config(hf.model().config, "float32")
    manager = make_manager(6 * layout.geometry(256).nbytes)
    pooled, dynamic = filled(hf, manager)
    with pytest.raises(PoolExhaustedError):
        pooled.batch_repeat_interleave(2)
    assert hf.same_cache(pooled, dynamic)
    pooled.batch_select_indices(hf.torch.tensor([1, 2]))
    dynamic.batch_select_indices(hf.torch.tensor([1, 2]))
    assert hf.same_cache(pooled, dynamic)


def test_what_concerns_all_layers_is_refused_by_one(hf: Any, manager: KVCacheManager) -> None:
    pooled, dynamic = filled(hf, manager)
    layer = pooled.layers[1]
    for call in (
        layer.reset,
        layer.offload,
        lambda: layer.crop(-1),
        lambda: layer.reorder_cache(hf.torch.arange(4)),
        lambda: layer.batch_repeat_interleave(2),
        lambda: layer.batch_select_indices(hf.torch.arange(2)),
    ):
        with pytest.raises(TypeError, match=r"is for the whole cache.*1 of transformers/chat"):
            call()
    assert hf.same_cache(pooled, dynamic)


def test_a_cache_can_be_made_ready_before_its_first_tokens(
    hf: Any, manager: KVCacheManager
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    assert (cache.batch_size, cache.is_initialized) == (-1, False)
    assert cache.layers[0].keys is cache.layers[0].values is None
    arguments = {"batch_size": 3, "num_heads": 2, "head_dim": 8, "dtype": hf.torch.float32}
    cache.early_initialization(**arguments, device=hf.torch.device("cpu"))
    assert (cache.batch_size, cache.is_initialized, cache.get_seq_length()) == (3, True, 0)
    dynamic = hf.DynamicCache()
    step = hf.words(4, rows=3)
    mine, theirs = hf.forward(hf.model(), step, cache), hf.forward(hf.model(), step, dynamic)
    assert hf.torch.equal(mine, theirs)
