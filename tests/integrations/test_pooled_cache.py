"""A session through `PooledCache`: same bits as `DynamicCache`, in place, leased, bounded."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryKindError,
    EntryRemovedError,
    InvalidLayoutError,
    InvalidTokensError,
    LayerIndexError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers

KEY = CacheKey("transformers", "chat-42")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_step_of_a_conversation_has_the_logits_of_a_dynamic_cache(
    hf: Any, make_manager: MakeManager, backend: str, dtype: str
) -> None:
    model, manager = hf.model(dtype=dtype), make_manager(backend=backend)
    pooled = hf.PooledCache.for_model(manager, model, "chat-42")
    dynamic = hf.DynamicCache()
    steps = zip(hf.converse(model, pooled), hf.converse(model, dynamic), strict=True)
    assert all(hf.torch.equal(mine, theirs) for mine, theirs in steps)
    assert hf.same_cache(pooled, dynamic)


@pytest.mark.parametrize("kind", ["heads of their own", "one head"])
def test_heads_may_be_shared_or_wide(hf: Any, manager: KVCacheManager, kind: str) -> None:
    model = hf.model(kind)
    pooled = hf.PooledCache.for_model(manager, model, "chat-42")
    dynamic = hf.DynamicCache()
    steps = zip(hf.converse(model, pooled, 1), hf.converse(model, dynamic, 1), strict=True)
    assert all(hf.torch.equal(mine, theirs) for mine, theirs in steps)
    config = model.config
    assert pooled.layers[0].keys.shape[1] == config.num_key_value_heads


def test_the_next_turn_goes_on_from_the_session(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    manager = make_manager(layout=KVLayout.from_config(model.config, "float32"))
    dynamic = hf.DynamicCache()
    for turn in range(4):
        cache = hf.PooledCache(manager, session="chat-42")
        assert cache.get_seq_length() == turn * 7
        step = hf.words(7, seed=turn)
        assert hf.torch.equal(hf.forward(model, step, cache), hf.forward(model, step, dynamic))
        del cache
    assert manager.session_keys() == [KEY]


def test_attended_tensors_lie_in_the_pool(hf: Any, make_manager: MakeManager, backend: str) -> None:
    manager = make_manager(backend=backend)
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42", max_context_length=32)
    first = hf.torch.randn(2, 1, 2, 5, 8)
    then = hf.torch.randn(2, 1, 2, 1, 8)
    for layer in range(2):
        keys, values = cache.update(*first, layer)
        assert hf.torch.equal(keys, first[0])
        assert hf.torch.equal(values, first[1])
    entry = entry_of(manager, KEY)
    for layer in range(2):
        longer = cache.update(*then, layer)
        for tensor, view in zip(longer, (entry.key(layer), entry.value(layer)), strict=True):
            assert tensor.shape == (1, 2, 6, 8)
            assert tensor.data_ptr() == view.ctypes.data
            assert tensor[0, 1].is_contiguous()
    assert keys.data_ptr() == longer[0].data_ptr()
    assert cache.get_seq_length() == entry.token_count == 6


def test_an_entry_without_a_limit_grows(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model()
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    dynamic = hf.DynamicCache()
    for count in (200, 60, 1, 300, 1):
        step = hf.words(count, seed=count)
        mine, theirs = hf.forward(model, step, cache), hf.forward(model, step, dynamic)
        assert hf.torch.equal(mine, theirs)
    assert cache.get_max_length() == cache.get_max_cache_shape() == -1
    assert entry_of(manager, KEY).max_context_length == 1024
    assert manager.get_stats().parting_entries == 0


def test_growing_takes_what_is_left_where_twice_the_room_is_too_much(
    hf: Any, make_manager: MakeManager
) -> None:
    layout = KVLayout(1, 1, 16, "float32")
    manager = make_manager((256 + 320) * layout.bytes_per_token, layout=layout)
    cache = hf.PooledCache(manager, "chat-42")
    cache.update(*hf.torch.randn(2, 1, 1, 250, 16), 0)
    cache.update(*hf.torch.randn(2, 1, 1, 10, 16), 0)
    assert entry_of(manager, KEY).max_context_length == 320


def test_a_limit_is_room_from_the_start_and_an_error_at_its_end(
    hf: Any, manager: KVCacheManager
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42", max_context_length=9)
    hf.forward(hf.model(), hf.words(7), cache)
    before = [tensor.clone() for tensor in hf.states(cache)]
    assert cache.get_max_length() == entry_of(manager, KEY).max_context_length == 9
    with pytest.raises(ContextOverflowError, match=r"10 tokens.*max_context_length is 9"):
        hf.forward(hf.model(), hf.words(3), cache)
    assert all(map(hf.torch.equal, before, hf.states(cache)))
    hf.forward(hf.model(), hf.words(2), cache)
    longer = hf.PooledCache.for_model(manager, hf.model(), "chat-42", max_context_length=20)
    hf.forward(hf.model(), hf.words(3), longer)
    assert longer.get_seq_length() == 12


# -- leases ------------------------------------------------------------------------------


def test_what_generates_is_not_evicted_and_what_waits_is(
    hf: Any, make_manager: MakeManager
) -> None:
    model = hf.model()
    room = KVLayout.from_config(model.config, "float32").geometry(64).nbytes
    manager = make_manager(2 * room, clock=iter(range(10**6)).__next__)
    waiting = hf.PooledCache.for_model(manager, model, "waiting", max_context_length=64)
    hf.forward(model, hf.words(3), waiting)
    waiting.release()
    running = hf.PooledCache.for_model(manager, model, "running", max_context_length=64)
    dynamic = hf.DynamicCache()
    for number in range(8):
        step = hf.words(5, seed=number)
        mine, theirs = hf.forward(model, step, running), hf.forward(model, step, dynamic)
        assert hf.torch.equal(mine, theirs)
        hf.forward(model, step, hf.PooledCache.for_model(manager, model, number))
    assert running.key in manager
    assert waiting.key not in manager
    with pytest.raises(EntryRemovedError, match="waiting"):
        waiting.get_seq_length()
    with pytest.raises(EntryRemovedError, match="waiting"):
        hf.forward(model, hf.words(1), waiting)


def test_a_session_that_is_found_is_leased_before_its_first_step(
    hf: Any, make_manager: MakeManager
) -> None:
    model = hf.model()
    nbytes = KVLayout.from_config(model.config, "float32").geometry(256).nbytes
    manager = make_manager(nbytes)
    with hf.PooledCache.for_model(manager, model, "chat-42") as cache:
        hf.forward(model, hf.words(3), cache)
    found = hf.PooledCache.for_model(manager, model, "chat-42")
    with pytest.raises(PoolExhaustedError):
        manager.evict_lru_entries(nbytes)
    found.release()
    assert manager.evict_lru_entries(nbytes) == [KEY]


def test_a_lease_ends_with_the_cache_and_lives_with_its_tensors(
    hf: Any, manager: KVCacheManager
) -> None:
    model = hf.model()
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    hf.forward(model, hf.words(3), cache)
    block = entry_of(manager, KEY).block
    keys = cache.layers[0].keys
    del cache
    assert manager.pool.is_leased(block)
    del keys
    assert not manager.pool.is_leased(block)


def test_a_cache_takes_its_lease_again_after_a_release(hf: Any, manager: KVCacheManager) -> None:
    model, dynamic = hf.model(), hf.DynamicCache()
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    for number in range(3):
        step = hf.words(4, seed=number)
        assert hf.torch.equal(hf.forward(model, step, cache), hf.forward(model, step, dynamic))
        cache.release()
        assert not manager.pool.is_leased(entry_of(manager, KEY).block)


def test_a_session_that_was_removed_is_an_error(hf: Any, manager: KVCacheManager) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    hf.forward(hf.model(), hf.words(3), cache)
    manager.remove_cache_entry(KEY)
    with pytest.raises(EntryRemovedError, match="chat-42"):
        cache.update(*hf.torch.randn(2, 1, 2, 1, 8), 0)
    assert manager.get_stats().parting_entries == 1
    del cache
    assert manager.get_stats().parting_entries == 0


# -- what fails --------------------------------------------------------------------------


def test_a_full_pool_is_an_error_and_the_sessions_are_intact(
    hf: Any, make_manager: MakeManager
) -> None:
    model = hf.model()
    layout = KVLayout.from_config(model.config, "float32")
    manager = make_manager(layout.geometry(300).nbytes)
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    step = hf.words(250)
    hf.forward(model, step, cache)
    before = [tensor.clone() for tensor in hf.states(cache)]
    with pytest.raises(PoolExhaustedError, match="cannot allocate"):
        hf.forward(model, hf.words(10), cache)  # has to grow
    other = hf.PooledCache.for_model(manager, model, "other")
    with pytest.raises(PoolExhaustedError, match="cannot allocate"):
        hf.forward(model, hf.words(10), other)
    assert manager.session_keys() == [KEY]
    assert all(map(hf.torch.equal, before, hf.states(cache)))
    dynamic = hf.DynamicCache()
    hf.forward(model, step, dynamic)
    word = hf.words(1)
    assert hf.torch.equal(hf.forward(model, word, cache), hf.forward(model, word, dynamic))


@pytest.mark.parametrize("repair", ["crop", "a new cache"])
def test_a_step_that_was_interrupted_can_be_dropped(
    hf: Any, manager: KVCacheManager, repair: str
) -> None:
    model, dynamic = hf.model(), hf.DynamicCache()
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    for one in (cache, dynamic):
        hf.forward(model, hf.words(6), one)
    cache.update(*hf.torch.randn(2, 1, 2, 3, 8), 0)  # and the other layer does not
    with pytest.raises(LayerMismatchError, match=r"layer 0 .* already holds 9"):
        cache.update(*hf.torch.randn(2, 1, 2, 1, 8), 0)
    if repair == "crop":
        cache.crop(0)
    else:
        cache = hf.PooledCache.for_model(manager, model, "chat-42")
    word = hf.words(1)
    assert hf.torch.equal(hf.forward(model, word, cache), hf.forward(model, word, dynamic))


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((1, 3, 1, 8), "float32", r"have the shape \(1, 3, 1, 8\), not \(1, 2, 1, 8\)"),
        ((1, 2, 1, 9), "float32", r"have the shape \(1, 2, 1, 9\), not \(1, 2, 1, 8\)"),
        ((2, 2, 1, 8), "float32", "holds a batch of 1, keys come for 2"),
        ((1, 2, 1, 8), "bfloat16", "are bfloat16, the layout is float32"),
        ((1, 2, 0, 8), "float32", "gets 0 tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    hf: Any, manager: KVCacheManager, shape: tuple[int, ...], dtype: str, text: str
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    hf.forward(hf.model(), hf.words(3), cache)
    wrong = hf.torch.zeros(shape, dtype=hf.DTYPES[dtype])
    with pytest.raises(InvalidTokensError, match=text):
        cache.update(wrong, wrong, 0)
    right = hf.torch.zeros(1, 2, 1, 8)
    with pytest.raises(InvalidTokensError, match="values for session"):
        cache.update(right, hf.torch.zeros(1, 2, 1, 7), 0)
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((1, 2, 1, 8), "float16", "are float16, the layout is float32"),
        ((1, 3, 1, 8), "float32", r"the shape \(1, 3, 1, 8\), not \(1, 2, 1, 8\)"),
        ((1, 2, 0, 8), "float32", r"gets no keys: shape \(1, 2, 0, 8\)"),
        ((0, 2, 1, 8), "float32", r"gets no keys: shape \(0, 2, 1, 8\)"),
    ],
)
def test_the_first_tokens_are_checked_before_an_entry_is_made(
    hf: Any, manager: KVCacheManager, shape: tuple[int, ...], dtype: str, text: str
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    wrong = hf.torch.zeros(shape, dtype=hf.DTYPES[dtype])
    with pytest.raises(InvalidTokensError, match=text):
        cache.update(wrong, wrong, 0)
    assert len(manager) == 0
    assert not cache.is_initialized


def test_tensors_of_a_device_are_refused(hf: Any, manager: KVCacheManager) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    far = hf.torch.zeros(1, 2, 1, 8, device="meta")
    with pytest.raises(InvalidTokensError, match="on meta: a pool is in host memory"):
        cache.update(far, far, 0)


def test_a_model_with_more_layers_than_the_layout_is_an_error(
    hf: Any, make_manager: MakeManager
) -> None:
    cache = hf.PooledCache(make_manager(layout=KVLayout(1, 2, 8, "float32")), "chat-42")
    with pytest.raises(LayerIndexError, match="no layer 1: it has 1"):
        hf.forward(hf.model(), hf.words(3), cache)


def test_a_cache_needs_a_layout_and_only_one(hf: Any, make_manager: MakeManager) -> None:
    with pytest.raises(InvalidLayoutError, match="no layout"):
        hf.PooledCache(make_manager(), "chat-42")
    manager = make_manager(layout=KVLayout(2, 2, 16, "float32"))
    with pytest.raises(InvalidLayoutError, match="2 x 2 x 8 float32, the manager has 2 x 2 x 16"):
        hf.PooledCache.for_model(manager, hf.model(), "chat-42")


def test_a_session_of_another_kind_is_refused(hf: Any, manager: KVCacheManager) -> None:
    manager.create_cache_entry(KEY, 8, layout=KVLayout(2, 3, 8, "float32"))
    manager.allocate_entry(CacheKey("transformers", "raw"), 64)
    with pytest.raises(EntryKindError, match="2 x 3 x 8 float32, not 2 x 2 x 8"):
        hf.PooledCache.for_model(manager, hf.model(), "chat-42")
    with pytest.raises(EntryKindError, match="raw"):
        hf.PooledCache.for_model(manager, hf.model(), "raw")


def test_two_caches_for_a_new_session_do_not_both_make_it(hf: Any, manager: KVCacheManager) -> None:
    one, other = (hf.PooledCache.for_model(manager, hf.model(), "chat-42") for _ in range(2))
    hf.forward(hf.model(), hf.words(3), one)
    with pytest.raises(EntryExistsError, match="chat-42"):
        hf.forward(hf.model(), hf.words(3), other)


def test_no_gradient_is_kept(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model()
    cache = hf.PooledCache.for_model(manager, model, "chat-42")
    for _ in range(2):
        model(input_ids=hf.words(3), **hf.given(model, cache))  # no `no_grad` around it
    assert not any(tensor.requires_grad for tensor in hf.states(cache))


def test_names_of_sessions(hf: Any, manager: KVCacheManager) -> None:
    model, key = hf.model(), CacheKey("chat", 7)
    caches = [
        hf.PooledCache.for_model(manager, model, 7),
        hf.PooledCache.for_model(manager, model, "seven", namespace="tenant"),
        hf.PooledCache.for_model(manager, model, key),
    ]
    for cache in caches:
        hf.forward(model, hf.words(2), cache)
    assert manager.session_keys() == [
        CacheKey("transformers", 7),
        CacheKey("tenant", "seven"),
        key,
    ]
    assert repr(caches[2]) == "<PooledCache chat/7: 2 layers, 2 tokens>"


def test_time_to_live_is_for_a_new_entry(hf: Any, make_manager: MakeManager) -> None:
    now = [0.0]
    manager = make_manager(clock=lambda: now[0])
    cache = hf.PooledCache.for_model(manager, hf.model(), "chat-42", ttl=5)
    hf.forward(hf.model(), hf.words(2), cache)
    now[0] = 6
    assert manager.evict_expired() == []  # leased
    cache.release()
    assert manager.evict_expired() == [KEY]
