"""`PooledLlama`: the same words as without a pool, and no block computed twice."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import time
from typing import Any

import numpy as np
import pytest

from kvpool import KVCacheEntry, KVCacheManager
from kvpool.errors import InvalidArgumentError
from tests.integrations.llama_cpp.conftest import MakeModel
from tests.support.injection import every_place

pytestmark = pytest.mark.engines

TEXT = "Once upon a time there was a pool that kept the tokens of all the conversations. "


def words(model: Any, prompt: str, count: int = 12) -> str:
    """Return what a model says after a prompt, without chance."""
    answer = model.create_completion(prompt, max_tokens=count, temperature=0)
    return str(answer["choices"][0]["text"])


def logits(model: Any, prompt: str) -> np.ndarray[Any, Any]:
    """Return the logits after a prompt."""
    next(model.generate(model.tokenize(prompt.encode()), temp=0))
    return np.array(model.scores[model.n_tokens - 1])


def test_turns_edits_and_branches_say_the_same_words(
    manager: KVCacheManager, make_model: MakeModel, plain: Any
) -> None:
    model = make_model(manager)
    prompts = [TEXT, TEXT + "And then?", TEXT[:40] + "other words", TEXT + "And then!", TEXT]
    for prompt in prompts:
        plain.reset()
        assert words(model, prompt) == words(plain, prompt)
        manager.check_integrity()


def test_what_one_model_computed_another_one_copies(
    manager: KVCacheManager, make_model: MakeModel, plain: Any
) -> None:
    first, second = make_model(manager), make_model(manager)
    words(first, TEXT)
    assert words(second, TEXT + "And then?") == words(plain, TEXT + "And then?")
    tokens = len(first.tokenize(TEXT.encode()))
    assert second.restored_tokens == tokens // 16 * 16
    assert manager.get_stats().prefix.tokens_reused == tokens // 16


def test_restored_tokens_give_the_same_logits_to_the_bit(
    manager: KVCacheManager, make_model: MakeModel
) -> None:
    for flash in (False, True):
        first = make_model(manager, flash_attn=flash, logits_all=True)
        second = make_model(manager, flash_attn=flash, logits_all=True)
        words(first, TEXT, 1)
        split = len(first.tokenize(TEXT.encode())) // 16 * 16
        expected = make_model(manager, flash_attn=flash, logits_all=True, salt=str(flash))
        ids = expected.tokenize((TEXT + "And then?").encode())
        expected.eval(ids[:split])
        expected.eval(ids[split:])
        found = logits(second, TEXT + "And then?")
        assert second.restored_tokens == split
        np.testing.assert_array_equal(found, expected.scores[len(ids) - 1])


def test_shared_blocks_are_stored_once(manager: KVCacheManager, make_model: MakeModel) -> None:
    model = make_model(manager)
    words(model, TEXT, 1)
    one = manager.get_stats().used_memory
    for number in range(5):
        words(model, f"{TEXT}{number} is another question.", 1)
    whole = len(model.tokenize(TEXT.encode())) // 16
    prefix = manager.get_stats().prefix
    assert prefix.tokens_reused >= 5 * (whole - 1)
    assert manager.get_stats().used_memory < 4 * one


@pytest.mark.parametrize("other", [{"number": 1}, {"salt": "tenant"}, {"type_k": 0, "type_v": 0}])
def test_what_differs_shares_nothing(
    manager: KVCacheManager, make_model: MakeModel, other: dict[str, Any]
) -> None:
    words(make_model(manager), TEXT)
    model = make_model(manager, **other)
    words(model, TEXT)
    assert model.restored_tokens == 0
    assert manager.get_stats().prefix.tokens_reused == 0
    again = make_model(manager, **other)
    words(again, TEXT)
    assert again.restored_tokens > 0


def test_a_pool_that_is_full_changes_no_word(
    make_model: MakeModel, plain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with KVCacheManager(64 << 10, backend="numpy") as manager:
        model = make_model(manager)
        for prompt in (TEXT, TEXT[5:], TEXT[9:], TEXT):
            plain.reset()
            assert words(model, prompt) == words(plain, prompt)
            manager.check_integrity()
        assert not any(manager.is_open(key) for key in manager.session_keys())
    assert "are not" in caplog.text


def test_evictions_change_no_word(make_model: MakeModel, plain: Any) -> None:
    with KVCacheManager(512 << 10, backend="mmap", policy="lru") as manager:
        model = make_model(manager)
        for number in (*range(12), *range(0, 12, 3), 11, 11):
            prompt = f"Conversation {number} has words of its own. " * 2
            plain.reset()
            assert words(model, prompt) == words(plain, prompt)
        assert manager.get_stats().evictions > 0
        assert model.restored_tokens > 0 or manager.get_stats().prefix.tokens_reused > 0
        manager.check_integrity()


def test_a_block_that_is_not_of_these_tokens_is_computed_again(
    manager: KVCacheManager, make_model: MakeModel, plain: Any
) -> None:
    words(make_model(manager), TEXT)
    (key,) = manager.session_keys()
    entry = manager.get_cache_entry(key)
    assert isinstance(entry, KVCacheEntry)
    record = entry.key(0, writeable=True)
    record[0, 1, 8] ^= 1  # the first token of the second block
    del record
    model = make_model(manager)
    assert words(model, TEXT) == words(plain, TEXT)
    assert model.restored_tokens == 16


def test_an_answer_that_is_left_in_the_middle_is_kept_so_far(
    manager: KVCacheManager, make_model: MakeModel, plain: Any
) -> None:
    model = make_model(manager)
    stream = model.create_completion(TEXT, max_tokens=60, temperature=0, stream=True)
    list(itertools.islice(stream, 30))
    stream.close()
    del stream
    assert not any(manager.is_open(key) for key in manager.session_keys())
    other = make_model(manager)
    assert words(other, TEXT) == words(plain, TEXT)
    assert other.restored_tokens > 0


def test_after_an_interrupt_the_words_are_the_same(
    manager: KVCacheManager, make_model: MakeModel, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # interrupts of finalizers
    expected = {}
    for prompt in (TEXT, TEXT[:40] + "other words"):
        plain.reset()
        expected[prompt] = words(plain, prompt, 4)
    words(make_model(manager), TEXT, 4)
    model, places = make_model(manager), 0
    for injection in every_place("interrupt"):
        model.reset()
        with contextlib.suppress(KeyboardInterrupt), injection:
            words(model, TEXT, 4)
        for prompt, said in reversed(expected.items()):
            assert words(model, prompt, 4) == said, injection.where
        assert not any(map(manager.is_open, manager)), injection.where
        manager.check_integrity()
        places += injection.where is not None
    assert places > 40


def test_a_model_that_is_closed_in_the_middle_leaves_no_session_open(
    manager: KVCacheManager, make_model: MakeModel
) -> None:
    model = make_model(manager)
    stream = model.generate(model.tokenize(TEXT.encode()), temp=0)
    next(stream)
    assert any(map(manager.is_open, manager))
    model.close()
    assert not any(map(manager.is_open, manager))


def test_two_models_with_other_weights_take_turns(
    manager: KVCacheManager, make_model: MakeModel, llama: Any, model_files: list[Any]
) -> None:
    models = [make_model(manager, number) for number in range(2)]
    alone = [llama.Llama(str(file), **llama.OPTIONS) for file in model_files]
    for prompt in (TEXT, TEXT + "One.", TEXT, TEXT + "Two."):
        for model, other in zip(models, alone, strict=True):
            other.reset()
            assert words(model, prompt) == words(other, prompt)
    for one in alone:
        one.close()


def test_blocks_expire(make_model: MakeModel) -> None:
    with KVCacheManager(16 << 20, backend="mmap") as manager:
        model = make_model(manager, ttl=0.01)
        words(model, TEXT)
        assert len(manager.session_keys()) == 1
        time.sleep(0.02)
        assert len(manager.evict_expired()) == 1


def test_continuing_without_a_reset_touches_no_block(
    manager: KVCacheManager, make_model: MakeModel
) -> None:
    words(make_model(manager), TEXT)
    model = make_model(manager)
    ids = model.tokenize(TEXT.encode())
    model.eval(ids[:-1])
    next(model.generate(ids[-1:], temp=0, reset=False))
    assert model.restored_tokens == 0
    assert model.n_tokens == len(ids)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"block_tokens": 0}, "block_tokens"),
        ({"block_tokens": True}, "True"),
        ({"embedding": True}, "embedding"),
    ],
)
def test_arguments_that_are_not_valid(
    manager: KVCacheManager, make_model: MakeModel, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        make_model(manager, **options)


def test_what_is_not_a_manager(make_model: MakeModel) -> None:
    with pytest.raises(InvalidArgumentError, match="'pool'"):
        make_model("pool")
