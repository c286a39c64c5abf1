"""Forks of a session, and copies of a cache."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import EntryExistsError, PoolExhaustedError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers

KEY = CacheKey("transformers", "chat-42")


def begun(hf: Any, manager: KVCacheManager, count: int = 7) -> list[Any]:
    """Return a pooled and a dynamic cache after the same tokens."""
    caches = [hf.PooledCache.for_model(manager, hf.model(), "chat-42"), hf.DynamicCache()]
    for cache in caches:
        hf.forward(hf.model(), hf.words(count), cache)
    return caches


def test_branches_go_on_from_the_same_tokens_and_apart(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    trunk, dynamic = begun(hf, make_manager(backend=backend))
    pairs = [(trunk.fork(f"branch-{number}"), copy.deepcopy(dynamic)) for number in range(3)]
    pairs.append((trunk, dynamic))
    for turn in range(3):
        for number, (mine, theirs) in enumerate(pairs):
            step = hf.words(3, seed=10 * turn + number)
            one, other = (hf.forward(hf.model(), step, cache) for cache in (mine, theirs))
            assert hf.torch.equal(one, other)
    assert all(hf.same_cache(*pair) for pair in pairs)


def test_a_branch_outlives_its_trunk(hf: Any, manager: KVCacheManager) -> None:
    trunk, dynamic = begun(hf, manager)
    branch = trunk.fork(CacheKey("elsewhere", 1))
    manager.remove_cache_entry(KEY)
    del trunk
    assert manager.session_keys() == [CacheKey("elsewhere", 1)]
    assert hf.same_cache(branch, dynamic)
    assert branch.key == CacheKey("elsewhere", 1)


def test_a_fork_drops_what_only_some_layers_hold(hf: Any, manager: KVCacheManager) -> None:
    trunk, dynamic = begun(hf, manager)
    trunk.update(*hf.torch.randn(2, 1, 2, 1, 8), 0)
    assert hf.same_cache(trunk.fork("branch"), dynamic)


def test_a_fork_needs_a_name_of_its_own_and_room(hf: Any, make_manager: MakeManager) -> None:
    layout = KVLayout.from_config(hf.model().config, "float32")
    manager = make_manager(layout.geometry(300).nbytes)
    trunk, dynamic = begun(hf, manager)
    with pytest.raises(EntryExistsError, match="chat-42"):
        trunk.fork("chat-42")
    with pytest.raises(PoolExhaustedError):
        trunk.fork("branch")
    assert manager.session_keys() == [KEY]
    assert hf.same_cache(trunk, dynamic)


def test_a_fork_of_nothing_has_nothing(hf: Any, manager: KVCacheManager) -> None:
    branch = hf.PooledCache.for_model(manager, hf.model(), "chat-42").fork("branch")
    assert (branch.get_seq_length(), len(manager)) == (0, 0)
    hf.forward(hf.model(), hf.words(2), branch)
    assert manager.session_keys() == [CacheKey("transformers", "branch")]


def test_a_fork_keeps_what_the_cache_was_made_with(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model("some sliding")
    trunk = hf.PooledCache.for_model(manager, model, "chat-42", max_context_length=30)
    hf.forward(model, hf.words(12), trunk)
    branch = trunk.fork("branch")
    assert branch.is_sliding == [True, False]
    assert branch.get_max_length() == 30
    step = hf.words(2)
    assert hf.torch.equal(hf.forward(model, step, trunk), hf.forward(model, step, branch))


def test_a_system_prompt_is_computed_once(hf: Any, manager: KVCacheManager) -> None:
    model, system = hf.model(), hf.words(30)
    shared = hf.PooledCache.for_model(manager, model, "system")
    hf.forward(model, system, shared)
    with hf.Computed(model) as counted:
        for number in range(3):
            prompt = hf.torch.cat([system, hf.words(4, seed=number)], dim=-1)
            made, expected = (
                model.generate(prompt, **hf.given(model, cache), max_new_tokens=5, do_sample=False)
                for cache in (shared.fork(number), None)
            )
            assert hf.torch.equal(made, expected)
    assert counted.tokens == 3 * (4 + 4) + 3 * (34 + 4)


# -- deepcopy ----------------------------------------------------------------------------


def test_a_deep_copy_is_a_fork_that_goes_with_the_copy(hf: Any, manager: KVCacheManager) -> None:
    cache, dynamic = begun(hf, manager)
    twins = copy.deepcopy(cache), copy.deepcopy(dynamic)
    step = hf.words(3, seed=3)
    assert hf.torch.equal(*(hf.forward(hf.model(), step, twin) for twin in twins))
    assert hf.same_cache(*twins)
    assert hf.same_cache(cache, dynamic)
    name = twins[0].key
    assert manager.session_keys() == [KEY, name]
    assert str(name).startswith("transformers/chat-42~")
    block = entry_of(manager, name).block
    del twins
    assert not manager.pool.is_leased(block)
    hf.PooledCache.for_model(manager, hf.model(), "any")
    assert manager.session_keys() == [KEY]


def test_copies_may_end_at_any_moment(hf: Any, make_manager: MakeManager) -> None:
    """As in a collection of cycles, which may run inside of a call of the manager."""
    ended = []

    def clock() -> float:  # the manager asks for the time under its lock
        if copies:
            ended.append(copies.pop())
            gc.collect()  # what would wait for the manager now would wait forever
        return 0.0

    copies: list[weakref.ref[Any]] = []
    manager = make_manager(clock=clock)
    cache, _ = begun(hf, manager)
    for _ in range(3):
        cycle = [copy.deepcopy(cache)]
        cycle.append(cycle)
        copies.append(weakref.ref(cycle[0]))
        del cycle
        manager.get_cache_entry(KEY)
        assert ended.pop()() is None
    hf.PooledCache.for_model(manager, hf.model(), "any")
    assert manager.session_keys() == [KEY]


def test_deep_copies_of_structures_share_one_copy(hf: Any, manager: KVCacheManager) -> None:
    cache, _ = begun(hf, manager)
    twins = copy.deepcopy([cache, cache])
    assert twins[0] is twins[1] is not cache
    assert len(manager) == 2
