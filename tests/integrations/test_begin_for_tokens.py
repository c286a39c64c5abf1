"""`PooledCache.begin_for_tokens`: a cache whose tokens are loaded in the background."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    CacheInUseError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
    PoolClosedError,
)
from kvpool.manager import KVCacheManager
from kvpool.tiers import Level, TierStore
from tests.support.children import in_child, needs_fork, refused
from tests.support.gated_tiers import GatedMemory

pytestmark = pytest.mark.transformers

CHUNK = 8
PATIENCE = 60
KEY = CacheKey("transformers", "chat")


@pytest.fixture
def tier() -> Iterator[GatedMemory]:
    tier = GatedMemory()
    yield tier
    tier.gate.set()


@pytest.fixture
def pooled(hf: Any, tier: GatedMemory) -> Iterator[KVCacheManager]:
    """A manager without sessions, whose tier has five chunks of `text`."""
    layout = hf.model_layout(hf.model())
    levels = [Level(tier, budget=None, may_decline=False)]
    with TierStore(levels, chunk_tokens=CHUNK) as store:
        options: dict[str, Any] = {"receipts": False, "chunk_tokens": CHUNK, "tiers": store}
        with KVCacheManager(1 << 24, "numpy", layout, **options) as first:
            answer(hf, begin(hf, first).result(PATIENCE))
        store.drain(PATIENCE)
        with KVCacheManager(1 << 24, "numpy", layout, **options) as manager:
            yield manager
            tier.gate.set()
            with suppress(PoolClosedError):
                until(partial(no_session_is_open, manager))
                manager.check_integrity()


def text(hf: Any) -> Any:
    return hf.words(42)


def begin(hf: Any, manager: KVCacheManager, session: Any = "chat") -> Any:
    return hf.PooledCache.begin_for_tokens(manager, text(hf), session, model=hf.model())


def answer(hf: Any, cache: Any) -> int:
    """Let a model answer with a cache, compare the answer, close the cache; return what it held."""
    held: int = cache.get_seq_length()
    model, ids = hf.model(), text(hf)
    name = hf.cache_argument(model)
    options = {"max_new_tokens": 4, "do_sample": False}
    with cache:
        said = model.generate(ids, **{name: cache}, **options)
        cache.close(said)
    assert hf.torch.equal(said, model.generate(ids, **{name: hf.DynamicCache()}, **options))
    return held


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def no_session_is_open(manager: KVCacheManager) -> bool:
    return not any(map(manager.is_open, manager.session_keys()))


def test_a_model_computes_another_session_meanwhile(
    hf: Any, pooled: KVCacheManager, tier: GatedMemory
) -> None:
    tier.shut()
    opening = begin(hf, pooled)
    tier.wait()
    told: list[bool] = []
    opening.when_ready(lambda: told.append(opening.is_ready))
    assert (opening.is_ready, opening.held) == (False, 0)
    with pytest.raises(TimeoutError):
        opening.result(0)
    with pytest.raises(CacheInUseError):
        begin(hf, pooled)
    with hf.PooledCache.for_tokens(pooled, hf.words(5), model=hf.model()) as other:
        assert hf.forward(hf.model(), hf.words(5), other) is not None
    assert not told
    tier.gate.set()
    cache = opening.result(PATIENCE)
    assert opening.result() is cache
    assert told == [True]
    assert answer(hf, cache) == 40


def test_without_anything_to_load_it_is_ready_at_once(
    hf: Any, pooled: KVCacheManager, tier: GatedMemory
) -> None:
    assert answer(hf, begin(hf, pooled).result(PATIENCE)) == 40
    tier.shut()
    opening = begin(hf, pooled)
    assert (opening.is_ready, opening.held) == (True, 41)
    assert answer(hf, opening.result(0)) == 41


def test_an_event_loop_goes_on(hf: Any, pooled: KVCacheManager, tier: GatedMemory) -> None:
    async def take() -> Any:
        tier.shut()
        opening = begin(hf, pooled)
        waiting = asyncio.create_task(opening.aresult())
        while not tier.arrived.acquire(blocking=False):
            await asyncio.sleep(0)
        assert not waiting.done()
        tier.gate.set()
        return await waiting

    assert answer(hf, asyncio.run(take())) == 40


@pytest.mark.parametrize("way", ["cancel", "drop"])
@pytest.mark.parametrize("is_loaded", [False, True])
def test_what_is_not_taken_goes(
    hf: Any, pooled: KVCacheManager, tier: GatedMemory, way: str, is_loaded: bool
) -> None:
    tier.shut()
    opening = begin(hf, pooled)
    tier.wait()
    if is_loaded:
        tier.gate.set()
        until(lambda: opening is not None and opening.is_ready)
    if way == "cancel":
        opening.cancel()
        with pytest.raises(EntryRemovedError, match="cancelled"):
            opening.result()
    opening = None
    gc.collect()
    tier.gate.set()
    until(partial(no_session_is_open, pooled))
    assert answer(hf, begin(hf, pooled).result(PATIENCE)) == 40


def test_what_was_taken_goes_with_its_cache(hf: Any, pooled: KVCacheManager) -> None:
    opening = begin(hf, pooled)
    cache = opening.result(PATIENCE)
    opening.cancel()
    assert pooled.is_open(KEY)
    del cache, opening
    gc.collect()
    assert answer(hf, begin(hf, pooled, "another").result(PATIENCE)) == 40
    assert not pooled.is_open(KEY)


def test_a_session_that_was_removed_meanwhile(
    hf: Any, pooled: KVCacheManager, tier: GatedMemory
) -> None:
    tier.shut()
    opening = begin(hf, pooled)
    tier.wait()
    pooled.remove_cache_entry(KEY)
    tier.gate.set()
    with pytest.raises(EntryRemovedError):
        opening.result(PATIENCE)
    assert answer(hf, begin(hf, pooled).result(PATIENCE)) == 40


def test_arguments_are_those_of_for_tokens(hf: Any, pooled: KVCacheManager) -> None:
    start = partial(hf.PooledCache.begin_for_tokens, pooled)
    with pytest.raises(InvalidTokensError, match="one sequence"):
        start(hf.words(4, rows=2), model=hf.model())
    with pytest.raises(InvalidArgumentError, match="model_id"):
        start([5, 6])
    with pytest.raises(InvalidTokensError, match="min_left"):
        start([5, 6], model=hf.model(), min_left=-1)
    assert not pooled.session_keys()
    cache = start([5, 6], "7", model=hf.model(), namespace="of", max_context_length=9).result()
    assert cache.key == CacheKey("of", "7")
    assert cache.get_max_cache_shape() == 9
    cache.close()


@needs_fork
def test_a_child_cannot_take_it(hf: Any, pooled: KVCacheManager, tier: GatedMemory) -> None:
    tier.shut()
    opening = begin(hf, pooled)
    tier.wait()

    def take() -> None:
        refused("result", partial(opening.result, 5))
        refused("aresult", lambda: asyncio.run(opening.aresult()))
        opening.cancel()

    in_child(take)
    tier.gate.set()
    assert answer(hf, opening.result(PATIENCE)) == 40
