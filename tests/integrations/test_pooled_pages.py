"""A `PooledCache` in an elastic pool: pages follow the tokens, and forks share them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kvpool.layout import KVLayout, Packing
from kvpool.pool import ElasticPool
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers

ELASTIC = ["mmap", "ctypes"]
TOKENS = 700  # more than a page of each head


def cache_with_tokens(hf: Any, manager: Any, count: int = TOKENS) -> tuple[Any, Any]:
    model = hf.model()
    cache = hf.PooledCache.for_model(manager, model, "chat")
    hf.forward(model, hf.words(count), cache)
    return model, cache


@pytest.mark.parametrize("backend", ELASTIC)
def test_room_costs_nothing_and_tokens_cost_their_pages(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    manager = make_manager(backend=backend)
    _, cache = cache_with_tokens(hf, manager)
    assert isinstance(manager.pool, ElasticPool)
    assert entry_of(manager, cache.key).max_context_length >= 1 << 17
    layout = KVLayout.from_config(hf.model().config, "float32")
    held = layout.geometry(1 << 17, manager.pool.granule).bytes_in_pages(
        TOKENS, manager.pool.granule
    )
    assert manager.get_stats().used_memory == manager.pool.committed_bytes() == held


@pytest.mark.parametrize("backend", ELASTIC)
def test_what_is_cropped_gives_its_pages_back(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    manager = make_manager(backend=backend)
    model, cache = cache_with_tokens(hf, manager)
    before = manager.get_stats().used_memory
    cache.crop(-(TOKENS - 10))
    assert manager.get_stats().used_memory < before / 2
    dynamic = hf.DynamicCache()
    hf.forward(model, hf.words(TOKENS)[:, :10], dynamic)
    step = hf.words(3, seed=7)
    # The same bits only where the same shapes were computed, so this is close.
    hf.torch.testing.assert_close(
        hf.forward(model, step, cache), hf.forward(model, step, dynamic), rtol=1e-4, atol=1e-5
    )
    assert manager.get_stats().pinned_entries == 0


@pytest.mark.parametrize("backend", ELASTIC)
def test_a_fork_shares_its_pages_and_both_answer_as_before(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    manager = make_manager(backend=backend)
    model, cache = cache_with_tokens(hf, manager)
    used = manager.get_stats().used_memory
    branch = cache.fork("branch")
    assert manager.get_stats().used_memory == used
    assert manager.get_stats().forks == 1
    dynamic = hf.DynamicCache()
    hf.forward(model, hf.words(TOKENS), dynamic)
    for one in (branch, cache):
        twin = copy.deepcopy(dynamic)
        for seed in range(3):
            step = hf.words(4, seed=seed)
            mine, theirs = hf.forward(model, step, one), hf.forward(model, step, twin)
            assert hf.torch.equal(mine, theirs)


@pytest.mark.parametrize("backend", ["numpy", *ELASTIC])
@pytest.mark.parametrize("who", ["parent", "fork"])
def test_rows_that_forks_share_are_reordered_apart(
    hf: Any, make_manager: MakeManager, backend: str, who: str
) -> None:
    manager, model = make_manager(backend=backend), hf.model()
    cache = hf.PooledCache.for_model(manager, model, "beams")
    hf.forward(model, hf.words(40, rows=3), cache)
    before = [states.clone() for states in hf.states(cache)]
    branch = cache.fork("branch")
    moved, other = (cache, branch) if who == "parent" else (branch, cache)
    order = hf.torch.tensor([2, 0, 0])
    moved.reorder_cache(order)
    for mine, kept, was in zip(hf.states(moved), hf.states(other), before, strict=True):
        assert hf.torch.equal(mine, was[order])
        assert hf.torch.equal(kept, was)


@pytest.mark.parametrize("packing", ["layer", "token"])
@pytest.mark.parametrize("backend", ["numpy", "mmap"])
def test_other_packings_have_the_same_bits(
    hf: Any, make_manager: MakeManager, backend: str, packing: Packing
) -> None:
    model = hf.model()
    one = KVLayout.from_config(model.config, "float32")
    layout = KVLayout(one.layers, one.kv_heads, one.head_dim, one.dtype, packing)
    manager = make_manager(backend=backend, layout=layout)
    pooled = hf.PooledCache.for_model(manager, model, "chat")
    steps = zip(hf.converse(model, pooled), hf.converse(model, hf.DynamicCache()), strict=True)
    for mine, theirs in steps:
        hf.torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert entry_of(manager, pooled.key).layout.packing == packing
