"""`PooledBatch.step` that is interrupted anywhere, fails, or meets a fork of the process."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from kvpool.errors import InvalidTokensError, PoolExhaustedError
from kvpool.manager import KVCacheManager
from tests.support.forked import Child
from tests.support.injection import Kind, error_of, every_place
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers

HELD = (3, 4)  # tokens of the sessions
NAME = "_attn_implementation"


def batch_of(hf: Any, manager: KVCacheManager, model: Any) -> Any:
    """A batch of sessions that hold some tokens."""
    names = range(len(HELD))
    batch = hf.PooledBatch(hf.PooledCache.for_model(manager, model, f"s{i}") for i in names)
    batch.step(model, [hf.words(count, seed=count)[0] for count in HELD])
    return batch


def lengths(batch: Any) -> list[int]:
    return [cache.get_seq_length() for cache in batch]


def leased(manager: KVCacheManager, batch: Any) -> list[bool]:
    return [entry_of(manager, cache.key).block.is_leased for cache in batch]


@pytest.mark.parametrize(("kind", "backend"), [("interrupt", "mmap"), ("memory", "numpy")])
def test_a_step_that_ends_anywhere_leaves_all_sessions_as_they_were(
    hf: Any, make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch, kind: Kind, backend: str
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", id)  # the end of a view may be interrupted
    model, manager = hf.model("heads of their own"), make_manager(backend=backend)
    batch = batch_of(hf, manager, model)
    tokens = [[5], hf.words(300)[0]]
    expected = batch.step(model, tokens).logits
    for cache, count in zip(batch, HELD, strict=True):
        cache.crop(count)
    before = [[one.clone() for one in hf.states(cache)] for cache in batch]
    used = manager.pool.stats().used
    for cache in batch:
        cache.release()
    for injection in every_place(kind):
        added = 0
        try:
            with injection:
                added = len(batch.step(model, tokens).logits)
        except type(error_of(kind)):
            pass
        if not added:
            assert lengths(batch) == list(HELD), injection.where
            assert leased(manager, batch) == [False, False], injection.where
        for cache, count, states in zip(batch, HELD, before, strict=True):
            cache.crop(count)
            assert all(map(hf.torch.equal, hf.states(cache), states)), injection.where
            cache.release()
        assert manager.pool.stats().used == used, injection.where
        assert manager.get_stats().pinned_entries == 0, injection.where
        assert leased(manager, batch) == [False, False], injection.where
    assert all(map(hf.torch.equal, batch.step(model, tokens).logits, expected))
    assert getattr(model.config, NAME) == "sdpa"


def test_a_session_that_fails_takes_no_lease(hf: Any, make_manager: MakeManager) -> None:
    model, manager = hf.model(), make_manager()
    batch = batch_of(hf, manager, model)
    for cache in batch:
        cache.release()
    step = batch.step(model, [[5], []])
    assert isinstance(step.errors[1], InvalidTokensError)
    assert leased(manager, batch) == [True, False]


def test_an_error_that_is_kept_keeps_no_lease(hf: Any, make_manager: MakeManager) -> None:
    model, manager = hf.model(), make_manager(1 << 20)
    batch = batch_of(hf, manager, model)
    step = batch.step(model, [[5], hf.words(20_000)[0]])
    assert isinstance(step.errors[1], PoolExhaustedError)
    assert isinstance(step.errors[1].__context__, PoolExhaustedError)  # of a traceback of its own
    for cache in batch:
        cache.release()
    assert leased(manager, batch) == [False, False]


def test_a_model_that_raises_leaves_neither_leases_nor_pages(
    hf: Any, make_manager: MakeManager
) -> None:
    model, manager = hf.model(), make_manager(backend="mmap")
    batch = batch_of(hf, manager, model)
    batch.caches[0].release()
    used = manager.pool.stats().used

    def fail(*_anything: Any) -> None:
        raise ZeroDivisionError

    hook = model.model.layers[1].register_forward_hook(fail)
    try:
        batch.step(model, [[5], hf.words(300)[0]])
    except ZeroDivisionError:
        pass
    finally:
        hook.remove()
    assert leased(manager, batch) == [False, True]
    assert lengths(batch) == list(HELD)
    assert manager.pool.stats().used == used


def test_a_child_that_was_forked_during_a_step_has_a_model_of_its_own(
    hf: Any, make_manager: MakeManager
) -> None:
    model, manager = hf.model("sliding"), make_manager()
    batch = batch_of(hf, manager, model)
    begun, may_go_on = threading.Event(), threading.Event()

    def wait(*_anything: Any) -> None:
        begun.set()
        may_go_on.wait()

    def in_child(say: Any) -> None:
        hook.remove()
        with KVCacheManager(1 << 20, "numpy", receipts=False) as own:
            step = batch_of(hf, own, model).step(model, [[5], [6]])
            say(f"{step.errors} {getattr(model.config, NAME)}")

    hook = model.model.layers[1].register_forward_hook(wait)
    other = threading.Thread(target=batch.step, args=(model, [[5], [6]]))
    other.start()
    try:
        begun.wait()
        with Child(in_child) as child:
            assert child.line() == "[None, None] sdpa"
    finally:
        may_go_on.set()
        other.join()
        hook.remove()
    assert lengths(batch) == [count + 1 for count in HELD]
    assert getattr(model.config, NAME) == "sdpa"
