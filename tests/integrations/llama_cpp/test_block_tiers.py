"""`PooledLlama` with tiers: blocks that the pool does not hold are loaded, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool import KVCacheManager
from kvpool.errors import InvalidArgumentError
from kvpool.tiers import Tier, TierStore, open_tier
from tests.integrations.llama_cpp.conftest import MakeModel
from tests.integrations.llama_cpp.test_pooled_llama import TEXT, logits, words
from tests.support.injection import every_place

pytestmark = pytest.mark.engines

DRAIN = 60.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"disk:{tmp_path / 'kv'}?capacity=64MiB"


@contextlib.contextmanager
def stored(*levels: str | Tier) -> Iterator[TierStore]:
    """A store of blocks; what was queued is written at its end."""
    store = TierStore(levels, chunk_tokens=1)
    try:
        yield store
    finally:
        assert store.drain(DRAIN) == 0
        store.close()


@contextlib.contextmanager
def pooled() -> Iterator[KVCacheManager]:
    """Another pool, as another process has it."""
    with KVCacheManager(64 << 20, backend="mmap") as manager:
        yield manager
        manager.check_integrity()


@pytest.fixture
def kept(url: str, make_model: MakeModel) -> int:
    """How many tokens of TEXT are in the tier of the URL, in whole blocks."""
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store)
        words(model, TEXT)
        assert model.loaded_tokens == 0
        return len(model.tokenize(TEXT.encode())) // 16 * 16


def test_another_pool_loads_what_one_computed(
    url: str, kept: int, make_model: MakeModel, plain: Any
) -> None:
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store)
        assert words(model, TEXT + "And then?") == words(plain, TEXT + "And then?")
        assert model.loaded_tokens == model.restored_tokens == kept
        plain.reset()
        other = make_model(manager, tiers=store)
        assert words(other, TEXT) == words(plain, TEXT)
        assert (other.restored_tokens, other.loaded_tokens) == (kept, 0)
        assert store.levels[0].stats().hits == kept // 16


def test_loaded_tokens_give_the_same_logits_to_the_bit(
    url: str, kept: int, make_model: MakeModel
) -> None:
    with stored(url) as store, pooled() as manager:
        expected = make_model(manager, logits_all=True, salt="other")
        ids = expected.tokenize((TEXT + "And then?").encode())
        expected.eval(ids[:kept])
        expected.eval(ids[kept:])
        model = make_model(manager, logits_all=True, tiers=store)
        found = logits(model, TEXT + "And then?")
        assert model.loaded_tokens == kept
        np.testing.assert_array_equal(found, expected.scores[len(ids) - 1])


def test_what_was_evicted_comes_back(url: str, make_model: MakeModel, plain: Any) -> None:
    with (
        stored(url) as store,
        KVCacheManager(512 << 10, backend="mmap", policy="lru") as manager,
    ):
        model = make_model(manager, tiers=store)
        texts = [f"Conversation {number} has words of its own. " * 2 for number in range(30)]
        for text in texts:
            words(model, text)
        assert manager.get_stats().evictions > 0
        assert store.drain(DRAIN) == 0
        assert words(model, texts[0]) == words(plain, texts[0])
        assert model.loaded_tokens > 0
        manager.check_integrity()


@pytest.mark.parametrize(
    "other",
    [{"number": 1}, {"salt": "tenant"}, {"type_k": 0, "type_v": 0}, {"rope_freq_base": 5000.0}],
)
def test_what_differs_loads_nothing(
    url: str, kept: int, make_model: MakeModel, other: dict[str, Any]
) -> None:
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store, **other)
        words(model, TEXT)
        assert kept
        assert model.loaded_tokens == model.restored_tokens == 0


def test_a_damaged_block_ends_the_load_and_is_computed(
    url: str, kept: int, make_model: MakeModel, plain: Any
) -> None:
    with contextlib.closing(open_tier(url)) as tier:
        names = list(tier.keys(b"c/"))
        assert len(names) >= kept // 16
        for name in names:
            with tier.read([name]) as (value,):
                assert value is not None
                damaged = bytearray(value)
            damaged[-1] ^= 1
            tier.remove([name])
            assert tier.write([(name, [damaged])]) == 1
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store)
        assert words(model, TEXT) == words(plain, TEXT)
        assert model.loaded_tokens == model.restored_tokens == 0
        assert store.levels[0].stats().misses["digest"] == 1


def test_a_tier_that_is_full_or_closed_changes_no_word(
    make_model: MakeModel, plain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pooled() as manager:
        store = TierStore(["memory:?capacity=64KiB"], chunk_tokens=1)
        model = make_model(manager, tiers=store)
        for text in (TEXT, TEXT[7:], TEXT):
            plain.reset()
            assert words(model, text) == words(plain, text)
        store.close()
        for text in (TEXT[9:], TEXT):
            plain.reset()
            assert words(model, text) == words(plain, text)
        assert model.restored_tokens > 0
        assert not any(map(manager.is_open, manager))
    assert "closed" in caplog.text


def test_after_an_interrupt_of_a_load_the_words_are_the_same(
    url: str, kept: int, make_model: MakeModel, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # interrupts of finalizers
    expected, places = words(plain, TEXT, 2), 0
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store)
        for injection in every_place("interrupt"):
            model.reset()
            manager.clear()
            with contextlib.suppress(KeyboardInterrupt), injection:
                words(model, TEXT, 2)
            assert words(model, TEXT, 2) == expected, injection.where
            assert not any(map(manager.is_open, manager)), injection.where
            manager.check_integrity()
            places += injection.where is not None
        assert kept
        assert places > 100


def test_a_context_that_has_the_prompt_loads_nothing(
    url: str, kept: int, make_model: MakeModel
) -> None:
    with stored(url) as store, pooled() as manager:
        model = make_model(manager, tiers=store)
        words(model, TEXT)
        assert model.loaded_tokens == kept
        manager.clear()
        words(model, TEXT)
        assert model.loaded_tokens == 0


def test_prompts_tell_the_store_how_fast_the_model_computes(
    url: str, make_model: MakeModel
) -> None:
    with stored(url) as store, pooled() as manager:
        assert store.stats().compute_rate is None
        words(make_model(manager, tiers=store), TEXT)
        assert (store.stats().compute_rate or 0) > 0


def wrong_size() -> TierStore:
    return TierStore(["memory:?capacity=1MiB"], chunk_tokens=64)


@pytest.mark.parametrize(
    ("make", "named"), [(wrong_size, "chunk_tokens=1, not 64"), (lambda: "disk:/kv", "'disk:/kv'")]
)
def test_what_is_not_a_store_of_blocks(
    manager: KVCacheManager, make_model: MakeModel, make: Callable[[], Any], named: str
) -> None:
    tiers = make()
    with pytest.raises(InvalidArgumentError, match=named):
        make_model(manager, tiers=tiers)
    if isinstance(tiers, TierStore):
        tiers.close()
