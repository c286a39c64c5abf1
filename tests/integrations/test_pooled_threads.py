"""Threads that generate in sessions of one pool."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvpool.errors import EntryRemovedError, PoolExhaustedError
from kvpool.layout import KVLayout
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

NAME = "_attn_implementation"


def answer(hf: Any, cache: Any, number: int, turns: int) -> list[int]:
    """Hold a conversation; return all of its tokens."""
    model, text = hf.model(), hf.words(4, seed=number)
    for turn in range(turns):
        text = model.generate(text, **hf.given(model, cache), max_new_tokens=8, do_sample=False)
        text = hf.torch.cat([text, hf.words(3, seed=turn)], dim=-1)
    tokens: list[int] = text[0].tolist()
    return tokens


def test_two_threads_generate_in_two_sessions(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    manager = make_manager(backend=backend)
    caches = [hf.PooledCache.for_model(manager, hf.model(), number) for number in range(2)]
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda n: answer(hf, caches[n], n, turns=4), range(2)))
    assert made == [answer(hf, hf.DynamicCache(), number, turns=4) for number in range(2)]
    assert len(manager) == 2


def test_sessions_come_and_go_while_others_generate(hf: Any, make_manager: MakeManager) -> None:
    """Room for three sessions, four threads with six: some wait, none gets another's tokens."""
    nbytes = KVLayout.from_config(hf.model().config, "float32").geometry(256).nbytes
    manager = make_manager(3 * nbytes)
    expected = [answer(hf, hf.DynamicCache(), number, turns=1) for number in range(6)]

    def serve(number: int) -> bool:
        for _ in range(10_000):
            try:
                with hf.PooledCache.for_model(manager, hf.model(), number) as cache:
                    cache.reset()
                    return answer(hf, cache, number, turns=1) == expected[number]
            except (PoolExhaustedError, EntryRemovedError):
                time.sleep(0.001)  # all three are at work, or it went before it was leased
        raise TimeoutError(f"no room for session {number}")

    # One thread for a session at a time, so the same one comes again only after all others.
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(serve, range(6)))
    assert 1 <= len(manager) <= 3


def test_batches_and_single_sessions_use_one_model_at_once(
    hf: Any, make_manager: MakeManager, frequent_switches: None
) -> None:
    del frequent_switches
    model, manager = hf.model(), make_manager()

    def decode(name: str) -> list[Any]:
        caches = [hf.PooledCache.for_model(manager, model, f"{name}{i}") for i in range(2)]
        batch, tokens, said = hf.PooledBatch(caches), list(hf.words(5, rows=2)), []
        for _ in range(20):
            step = batch.step(model, tokens)
            tokens = [[int(one.argmax())] for one in step.logits]
            said += step.logits
        return said

    expected, alone = decode("a"), answer(hf, hf.DynamicCache(), 1, turns=4)
    with ThreadPoolExecutor(3) as threads:
        batches = threads.map(decode, "bc")
        single = threads.submit(
            answer, hf, hf.PooledCache.for_model(manager, model, "s"), 1, turns=4
        )
    for found in batches:
        assert all(map(hf.torch.equal, found, expected))
    assert single.result() == alone
    assert getattr(model.config, NAME) == "sdpa"
