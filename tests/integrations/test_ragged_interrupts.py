"""`PooledBatch.step` that is interrupted anywhere, fails, or meets a fork of the process."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from tests.support.forked import Child
from tests.support.managers import MakeManager

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
