"""A real redis-server that fails between and in calls of `generate`: the same text, every time."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore
from tests.support.redis_faults import FAULTS, FaultyServer, states_of

pytestmark = pytest.mark.transformers

CHUNK = 8
ANSWER = 6
TEXTS = 4


class Conversations:
    """Answers texts of a small model, of which the pool has room for one, and a tier for all."""

    def __init__(self, hf: Any, url: str) -> None:
        self._hf, self._model = hf, hf.model()
        self._texts = [hf.words(40, seed=number) for number in range(TEXTS)]
        self._expected = [self._generate(text, hf.DynamicCache()) for text in self._texts]
        self.store = TierStore([url], chunk_tokens=CHUNK)
        layout = hf.model_layout(self._model)
        self.manager = KVCacheManager(
            layout.geometry(64).nbytes,
            "numpy",
            layout,
            receipts=False,
            chunk_tokens=CHUNK,
            tiers=self.store,
        )

    def _generate(self, text: Any, cache: Any, streamer: Any = None) -> Any:
        name = self._hf.cache_argument(self._model)
        options = {name: cache, "max_new_tokens": ANSWER, "do_sample": False}
        return self._model.generate(text, streamer=streamer, **options)

    def answer_all(self, in_the_middle: Any = None) -> int:
        """Answer each text and compare the answer; return the tokens that were loaded."""
        before = self.manager.get_stats().prefix.tokens_by_source["loaded"]
        for number, (text, expected) in enumerate(zip(self._texts, self._expected, strict=True)):
            streamer = _Middle(in_the_middle) if number == 1 and in_the_middle else None
            with self._hf.PooledCache.for_tokens(
                self.manager, text, None, model=self._model, max_context_length=64
            ) as cache:
                said = self._generate(text, cache, streamer)
                cache.close(said)
            assert self._hf.torch.equal(said, expected)
            self.manager.check_integrity()
        return self.manager.get_stats().prefix.tokens_by_source["loaded"] - before

    def close(self) -> None:
        """Close the manager and the tier."""
        self.manager.close(0.0)
        self.store.close(0.0)


class _Middle:
    """Takes tokens while they are generated, and does something once, after the third."""

    def __init__(self, act: Any) -> None:
        self._act, self._seen = act, 0

    def put(self, _tokens: Any) -> None:
        self._seen += 1
        if self._seen == 3:
            self._act()

    def end(self) -> None:
        """Nothing is left to do."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_generate(
    hf: Any, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvpool")
    with FaultyServer(tmp_path, fault) as server:
        talk = Conversations(hf, f"{server.url}?budget=1&decline=no")
        (level,) = talk.store.levels
        assert talk.answer_all() == 0
        talk.store.drain(60)
        everything = talk.answer_all()
        assert everything >= TEXTS * (40 // CHUNK * CHUNK - 1)
        during = talk.answer_all(server.begin)
        assert during == everything if fault == "full" else during < everything
        talk.answer_all()
        server.end()
        until = time.monotonic() + 60
        while talk.answer_all() < everything:
            assert time.monotonic() < until, "the tier is not used again"
            talk.store.drain(1)
            time.sleep(0.2)
        misses, states = level.stats().misses, states_of(caplog.records, level.name)
        talk.close()
    if fault in {"killed", "paused", "slow"}:
        assert misses["unreachable"] > 0
    else:
        assert not states
        assert "unreachable" not in misses
    assert (misses.get("digest", 0) > 0) == (fault == "corrupted")
