"""What fails takes nothing else down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    CacheInUseError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidLayoutError,
    PoolClosedError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.serving import (
    Engine,
    EngineClosedError,
    EngineObserver,
    ModelFailedError,
    Request,
    Sampling,
)
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]


def test_a_model_that_raises_fails_the_requests_of_its_step(
    lab: Any, make_engine: MakeEngine, gate: Any
) -> None:
    engine = make_engine(max_sessions=2)

    def fail(_caches: Any, tokens: Sequence[Any]) -> None:
        if any(13 in one for one in tokens):
            raise RuntimeError("not enough memory")

    gate.before = fail
    gate.shut()
    first = engine.submit(Request(tokens=[2, 3], max_tokens=5))
    gate.wait()
    second = engine.submit(Request(tokens=[4, 13], max_tokens=5))
    third = engine.submit(Request(tokens=[2, 3], max_tokens=5))
    gate.open()
    for generation in (first, second):
        with pytest.raises(
            ModelFailedError, match=r"the model failed \(RuntimeError: not enough memory\)"
        ) as caught:
            generation.result(60)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert generation.error is caught.value
    assert first.usage.completion_tokens == 1
    assert third.result(60).token_ids == lab.alone([2, 3], 5)
    assert engine.stats().finished["error"] == 2


def test_a_reader_hears_of_an_error_after_the_last_piece(
    lab: Any, make_engine: MakeEngine, gate: Any
) -> None:
    engine = make_engine()
    calls = iter(range(100))

    def fail(_caches: Any, _tokens: Any) -> None:
        if next(calls) == 2:
            raise ValueError("odd numbers")

    gate.before = fail
    generation = engine.submit(Request(tokens=[2, 3], max_tokens=5))
    pieces = iter(generation)
    read = [next(pieces), next(pieces), next(pieces)]
    assert [piece.finish_reason for piece in read] == [None, None, "error"]
    with pytest.raises(ModelFailedError, match="odd numbers"):
        next(pieces)
    assert sum((piece.token_ids for piece in read), ()) == lab.alone([2, 3], 2)


def test_sampling_that_fails_fails_one_request(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine()
    good = engine.submit(Request(tokens=[2, 3], max_tokens=3))
    (token,) = lab.alone([2, 3], 1)
    endless = Sampling(logit_bias={token: 3e38}, temperature=1e-30)
    bad = engine.submit(Request(tokens=[2, 3], max_tokens=3, sampling=endless))
    with pytest.raises(ModelFailedError, match=r"the sampling of a request failed \(RuntimeError"):
        bad.result(60)
    assert good.result(60).token_ids == lab.alone([2, 3], 3)


def test_settings_that_transformers_refuses(lab: Any, make_engine: MakeEngine) -> None:
    engine = make_engine(generation_config=lab.settings(bad_words_ids=[]))
    with pytest.raises(ModelFailedError, match=r"the settings of a request failed .*bad_words_ids"):
        engine.submit(Request(tokens=[2, 3])).result(60)


def test_a_removed_session_fails_alone(
    lab: Any, make_engine: MakeEngine, manager: KVCacheManager, gate: Any
) -> None:
    engine = make_engine()
    gate.shut()
    removed = engine.submit(Request(tokens=[2, 3], max_tokens=9, session="ada"))
    other = engine.submit(Request(tokens=[4, 5], max_tokens=9))
    gate.let(3)
    gate.wait(4)
    manager.remove_cache_entry(CacheKey("serving", "ada"))
    gate.open()
    with pytest.raises(EntryRemovedError, match="ada"):
        removed.result(60)
    assert other.result(60).token_ids == lab.alone([4, 5], 9)


def test_a_session_that_is_open_elsewhere_is_refused(
    make_engine: MakeEngine, manager: KVCacheManager
) -> None:
    engine = make_engine()
    key = CacheKey("chat", 1)
    layout = KVLayout(2, 2, 16, "float32")
    entry, _ = manager.open_session([2, 3], key, layout=layout)
    with pytest.raises(CacheInUseError):
        engine.submit(Request(tokens=[2, 3], session=key)).result(60)
    manager.close_session(entry, [])
    assert engine.submit(Request(tokens=[2, 3], session=key, max_tokens=1)).result(60).text


class Moody(LruPolicy):
    """Raises when a session is closed, as long as it is told to."""

    is_cross = False

    def split(self, *parts: Any) -> None:
        self._complain()
        super().split(*parts)

    def admit(self, *entry: Any) -> None:
        self._complain()
        super().admit(*entry)

    def _complain(self) -> None:
        if self.is_cross:
            raise RuntimeError("not today")


CROSS = r"the end of a session failed \(RuntimeError: not today\)"


def test_a_policy_that_raises_at_the_end_of_a_session_fails_its_request(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager, gate: Any
) -> None:
    policy = Moody()
    engine = make_engine(make_manager(policy=policy), max_sessions=2)
    gate.shut()
    requests = [
        Request(tokens=[2, 3], max_tokens=3),
        Request(tokens=[4, 5], max_tokens=3, session="ada"),
        Request(tokens=[6, 7], max_tokens=3000),
    ]
    generations = [engine.submit(request) for request in requests]
    gate.wait()
    policy.is_cross = True
    generations[2].cancel()
    gate.open()
    for generation in generations[:2]:
        with pytest.raises(ModelFailedError, match=CROSS):
            generation.result(60)
        assert generation.usage.completion_tokens == 3
    assert generations[2].result(60).finish_reason == "cancelled"
    policy.is_cross = False
    # The session is not open for ever.
    assert engine.submit(requests[1]).result(60).token_ids == lab.alone([4, 5], 3)


def test_a_policy_that_raises_at_the_end_of_an_engine_leaves_no_reader_waiting(
    make_engine: MakeEngine, make_manager: MakeManager, gate: Any
) -> None:
    policy = Moody()
    engine = make_engine(make_manager(policy=policy))
    gate.shut()
    generations = [engine.submit(Request(tokens=[2, n], max_tokens=3000)) for n in (3, 4, 5)]
    gate.wait()
    policy.is_cross = True
    gate.open()
    engine.close(0)
    for generation in generations:
        with pytest.raises(ModelFailedError, match=CROSS):
            generation.result(60)
    policy.is_cross = False


def test_a_policy_that_raises_when_a_place_is_given_up(
    make_engine: MakeEngine, make_manager: MakeManager, gate: Any
) -> None:
    policy = Moody()
    manager = make_manager(3 * 8 * 4096, "mmap", policy=policy)
    engine = make_engine(manager, overcommit=10)
    prompts = [[n + 2, *range(3 + n, 43 + n)] for n in range(3)]
    gate.shut()
    generations = [engine.submit(Request(tokens=prompt, max_tokens=60)) for prompt in prompts]
    gate.wait()
    gate.let(10)
    gate.wait(10)
    policy.is_cross = True
    gate.open()
    with pytest.raises(ModelFailedError, match=CROSS):
        generations[2].result(60)
    assert 0 < generations[2].usage.completion_tokens < 60
    policy.is_cross = False
    assert engine.submit(Request(tokens=[2], max_tokens=2)).result(60).token_ids


def test_a_policy_that_raises_when_a_prompt_is_shown_to_others(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager, gate: Any
) -> None:
    policy = Moody()
    engine = make_engine(make_manager(policy=policy), prefill_tokens=30)
    prompt = list(range(2, 62))
    gate.shut()
    first = engine.submit(Request(tokens=prompt, max_tokens=9))
    gate.wait()
    second = engine.submit(Request(tokens=[*prompt, 3], max_tokens=2))
    gate.let()
    gate.wait()
    policy.is_cross = True
    gate.let()
    with pytest.raises(ModelFailedError, match=CROSS):
        first.result(60)
    policy.is_cross = False
    gate.open()
    assert first.usage.completion_tokens == 1
    assert second.result(60).token_ids == lab.alone([*prompt, 3], 2)


def test_an_engine_ends_with_its_manager(lab: Any, gate: Any) -> None:
    manager = KVCacheManager(1 << 20, "numpy", receipts=False)
    engine = lab.make_engine(manager, max_sessions=1)
    gate.shut()
    running = engine.submit(Request(tokens=[2, 3], max_tokens=9))
    waiting = engine.submit(Request(tokens=[2, 3], max_tokens=9))
    gate.wait()
    manager.close()
    gate.open()
    for generation in (running, waiting):
        with pytest.raises(EngineClosedError, match="has failed: PoolClosedError") as caught:
            generation.result(60)
        assert isinstance(caught.value.__cause__, PoolClosedError)
    with pytest.raises(EngineClosedError, match="has failed: PoolClosedError"):
        engine.submit(Request(tokens=[2]))
    engine.close()


def test_an_observer_that_raises_changes_nothing(
    lab: Any, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(EngineObserver):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return refuse
            return super().__getattribute__(name)

    def refuse(*facts: Any) -> None:
        raise RuntimeError(f"full disk, {facts}")

    with caplog.at_level(logging.ERROR):
        done = make_engine(observer=Broken()).submit(Request(tokens=[2], max_tokens=3)).result(60)
    assert done.token_ids == lab.alone([2], 3)
    assert "the observer of an engine raised in refuse" in caplog.text
    assert "full disk" in caplog.text


def test_what_an_engine_cannot_be_made_of(lab: Any, make_manager: Any) -> None:
    for options, text in (
        ({"max_sessions": 0}, "max_sessions must be at least 1, not 0"),
        ({"prefill_tokens": 1.5}, "prefill_tokens must be a whole number, not 1.5"),
        ({"overcommit": 0}, "overcommit must be above 0, not 0"),
        ({"room_timeout": -1}, "room_timeout must be at least 0, not -1"),
        ({"priority_seconds": "1"}, "priority_seconds must be a finite number, not '1'"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            lab.make_engine(make_manager(), **options)
    with pytest.raises(InvalidLayoutError, match="the model has the layout"):
        lab.make_engine(make_manager(layout=KVLayout(1, 1, 16, "float32")))
    model = lab.tiny().model
    model.train()
    try:
        with pytest.raises(InvalidArgumentError, match="training mode"):
            lab.make_engine(make_manager())
    finally:
        model.eval()
