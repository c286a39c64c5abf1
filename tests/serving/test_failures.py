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
