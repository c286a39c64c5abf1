"""`LlamaPoolCache`: states of any model, for `Llama.set_cache`."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from typing import Any

import numpy as np
import pytest

from kvpool import KVCacheManager
from kvpool.errors import InvalidArgumentError, PoolExhaustedError
from tests.integrations.llama_cpp.test_pooled_llama import TEXT, words
from tests.support.injection import every_place

pytestmark = pytest.mark.engines


@pytest.fixture
def cached(llama: Any, model_files: list[Any], manager: KVCacheManager) -> Any:
    """A model with a cache in the pool."""
    model = llama.Llama(str(model_files[0]), **llama.OPTIONS)
    model.set_cache(llama.LlamaPoolCache(manager))
    yield model
    model.close()


def test_turns_edits_and_branches_say_the_same_words(cached: Any, plain: Any) -> None:
    for prompt in (TEXT, TEXT + "And then?", TEXT[:40] + "other words", TEXT + "And then!", TEXT):
        plain.reset()
        cached.reset()
        assert words(cached, prompt) == words(plain, prompt)


def test_a_state_that_goes_on_replaces_the_one_before(cached: Any, manager: KVCacheManager) -> None:
    ids = list(range(3, 23))
    state = cached.save_state()
    cached.cache[ids] = state
    cached.cache[[*ids, 5, 6]] = state
    assert len(cached.cache) == 1
    cached.cache[[*ids[:10], 7]] = state
    assert len(cached.cache) == 2
    assert cached.cache.cache_size <= manager.get_stats().used_memory


def test_the_longest_common_prefix_is_found(cached: Any) -> None:
    state = cached.save_state()
    for number, tokens in enumerate(([1, 2, 3], [1, 2, 4, 5, 6], [9])):
        state.seed = number
        cached.cache[tokens] = state
    for asked, seed in (([1, 2, 3, 4], 0), ([1, 2, 4, 5], 1), ([1, 2, 4, 5, 6, 7], 1), ([9, 1], 2)):
        assert cached.cache[asked].seed == seed
        assert asked in cached.cache
    assert [2] not in cached.cache
    with pytest.raises(KeyError, match="no state"):
        cached.cache[[2, 1]]
    with pytest.raises(KeyError):
        cached.cache[[]]


def test_a_state_comes_back_as_it_was(llama: Any, cached: Any, manager: KVCacheManager) -> None:
    words(cached, TEXT, 4)
    state = cached.save_state()
    for keep_scores in (False, True):
        cache = llama.LlamaPoolCache(manager, namespace=str(keep_scores), keep_scores=keep_scores)
        cache[[1, 2, 3]] = state
        found = cache[[1, 2, 3]]
        assert bytes(found.llama_state) == state.llama_state
        assert found.llama_state_size == state.llama_state_size
        assert (found.n_tokens, found.seed) == (state.n_tokens, state.seed)
        np.testing.assert_array_equal(found.input_ids, state.input_ids)
        if keep_scores:
            np.testing.assert_array_equal(found.scores, state.scores)
        assert cache.cache_size < len(state.llama_state) + 4096 + keep_scores * state.scores.nbytes


def test_a_state_that_someone_has_is_not_evicted(cached: Any, manager: KVCacheManager) -> None:
    cached.cache[[1, 2, 3]] = cached.save_state()
    (key,) = manager.session_keys()
    found = cached.cache[[1, 2]]
    assert manager.get_stats().used_memory > 0
    with pytest.raises(PoolExhaustedError):
        manager.make_room(manager.pool.capacity)
    assert key in manager
    del found
    gc.collect()
    manager.make_room(manager.pool.capacity)
    assert key not in manager


def test_what_was_evicted_is_forgotten(cached: Any, manager: KVCacheManager) -> None:
    cached.cache[[1, 2, 3]] = cached.save_state()
    manager.make_room(manager.pool.capacity)
    assert [1, 2] not in cached.cache
    assert (len(cached.cache), cached.cache.cache_size) == (0, 0)
    cached.cache[[1, 2, 3]] = cached.save_state()
    cached.cache.clear()
    assert len(cached.cache) == 0
    assert manager.session_keys() == []


def test_a_state_that_does_not_fit_is_not_kept(
    llama: Any, cached: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with KVCacheManager(4096, backend="numpy") as small:
        cached.set_cache(llama.LlamaPoolCache(small))
        words(cached, TEXT)
        assert small.session_keys() == []
        small.check_integrity()
    assert "is not kept" in caplog.text


def test_a_state_that_does_not_fit_costs_no_other(
    llama: Any, cached: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    state = cached.save_state()
    with KVCacheManager(len(state.llama_state) + 8192, backend="numpy") as small:
        cache = llama.LlamaPoolCache(small)
        cache[[1, 2, 3]] = state
        assert len(cache) == 1
        words(cached, TEXT, 1)
        cache[[1, 2, 3, 4]] = cached.save_state()  # it is larger, and never fits
        assert "is not kept" in caplog.text
        assert len(cache) == 1
        assert [1, 2] in cache


def test_an_interrupt_leaves_no_entry_that_nobody_finds(
    llama: Any, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # interrupts of finalizers
    state = cached.save_state()
    with KVCacheManager(64 << 20, backend="numpy") as manager:
        cache = llama.LlamaPoolCache(manager)
        for number, injection in enumerate(every_place("interrupt")):
            with contextlib.suppress(KeyboardInterrupt), injection:
                cache[[number, 2, 3]] = state
            manager.check_integrity()
            assert len(cache) == len(manager)


def test_states_expire(llama: Any, cached: Any, manager: KVCacheManager) -> None:
    cache = llama.LlamaPoolCache(manager, ttl=0.01, namespace="short")
    cache[[1, 2]] = cached.save_state()
    time.sleep(0.02)
    assert [1, 2] not in cache
    assert len(cache) == 0


def test_arguments_that_are_not_valid(llama: Any, manager: KVCacheManager) -> None:
    with pytest.raises(InvalidArgumentError, match="'pool'"):
        llama.LlamaPoolCache("pool")
    with pytest.raises(InvalidArgumentError, match="7"):
        llama.LlamaPoolCache(manager, namespace=7)
