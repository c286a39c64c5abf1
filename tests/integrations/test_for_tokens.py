"""`PooledCache.for_tokens`: right whatever was said before, and nothing is computed twice."""

from __future__ import annotations

import array
from importlib import import_module
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryExistsError,
    EntryKindError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
    PoolExhaustedError,
)
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

KEY = CacheKey("transformers", "chat")
ANSWER = 6


def answer(model: Any, ids: Any, cache: Any, **options: Any) -> Any:
    """Return a text and how a model goes on from it."""
    options = {"max_new_tokens": ANSWER, "do_sample": False} | options
    name = import_module("kvpool.integrations.transformers").cache_argument(model)
    return model.generate(ids, **{name: cache}, **options)


def expected(hf: Any, ids: Any, of: Any = None, **options: Any) -> Any:
    return answer(of or hf.model(), ids, hf.DynamicCache(), **options)


def open_cache(
    hf: Any,
    manager: KVCacheManager,
    ids: Any,
    session: Any = "chat",
    of: Any = None,
    **options: Any,
) -> Any:
    return hf.PooledCache.for_tokens(manager, ids, session, model=of or hf.model(), **options)


def take_turn(
    hf: Any, manager: KVCacheManager, ids: Any, session: Any = "chat", of: Any = None
) -> tuple[Any, int]:
    """Answer a text in a session and close it; return the answer and the tokens computed."""
    model = of or hf.model()
    with open_cache(hf, manager, ids, session, of) as cache, hf.Computed(model) as counted:
        said = answer(model, ids, cache)
        cache.close(said)
    manager.check_integrity()
    return said, counted.tokens


def joined(hf: Any, *parts: Any) -> Any:
    return hf.torch.cat(parts, dim=-1)


# -- turns -------------------------------------------------------------------------------


def test_turns_compute_what_is_new(hf: Any, make_manager: MakeManager, backend: str) -> None:
    manager = make_manager(backend=backend)
    text, held = hf.words(9), 0
    for turn in range(4):
        wanted = expected(hf, text)
        said, computed = take_turn(hf, manager, text)
        assert hf.torch.equal(said, wanted)
        assert computed == text.shape[1] - held + ANSWER - 1
        held = said.shape[1] - 1
        text = joined(hf, said, hf.words(3, seed=turn + 1))
    assert manager.get_stats().prefix.tokens_by_source["continued"] > 0


@pytest.mark.parametrize("at", [0, 1, 8, 12, 15])
def test_an_edited_history_is_cut_at_the_first_token_that_differs(
    hf: Any, manager: KVCacheManager, at: int
) -> None:
    said, _ = take_turn(hf, manager, hf.words(10))
    edited = joined(hf, said, hf.words(4, seed=1))
    edited[0, at] = (edited[0, at] + 1) % 90 + 2
    again, computed = take_turn(hf, manager, edited)
    assert hf.torch.equal(again, expected(hf, edited))
    assert computed == edited.shape[1] - min(at, said.shape[1] - 1) + ANSWER - 1


@pytest.mark.parametrize("length", [1, 3, 10, 15, 16])
def test_a_shorter_text_goes_on_from_what_is_held(
    hf: Any, manager: KVCacheManager, length: int
) -> None:
    said, _ = take_turn(hf, manager, hf.words(10))
    shorter = said[:, :length]
    again, computed = take_turn(hf, manager, shorter)
    assert hf.torch.equal(again, expected(hf, shorter))
    assert computed == 1 + ANSWER - 1


def test_other_sessions_begin_with_what_one_has_computed(hf: Any, manager: KVCacheManager) -> None:
    system = hf.words(20)
    take_turn(hf, manager, joined(hf, system, hf.words(5, seed=1)), "ada")
    for number, session in enumerate(["bo", "cy", None, None]):
        text = joined(hf, system, hf.words(4 + number, seed=7 + number))
        said, computed = take_turn(hf, manager, text, session)
        assert hf.torch.equal(said, expected(hf, text))
        assert computed == 4 + number + ANSWER - 1


def test_an_evicted_session_is_computed_again(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    manager = make_manager(150 * hf.model_layout(model).bytes_per_token)
    text = hf.words(40)
    take_turn(hf, manager, text)
    take_turn(hf, manager, hf.words(50, seed=5), "other")
    take_turn(hf, manager, hf.words(50, seed=6), "another")
    assert KEY not in manager
    said, computed = take_turn(hf, manager, text)
    assert hf.torch.equal(said, expected(hf, text))
    assert computed == 40 + ANSWER - 1


def test_a_growing_session_stays_the_same(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(250)
    with open_cache(hf, manager, text) as cache:
        said = answer(hf.model(), text, cache, max_new_tokens=60)
        cache.close(said)
    assert hf.torch.equal(said, expected(hf, text, max_new_tokens=60))
    assert take_turn(hf, manager, said)[1] == 1 + ANSWER - 1


@pytest.mark.parametrize("kind", ["tensor", "row", "list", "array", "numpy"])
def test_ids_of_any_kind(hf: Any, manager: KVCacheManager, kind: str) -> None:
    text = hf.words(8)
    ids = {
        "tensor": text,
        "row": text[0],
        "list": text[0].tolist(),
        "array": array.array("q", text[0].tolist()),
        "numpy": text[0].numpy().astype("int32"),
    }[kind]
    with open_cache(hf, manager, ids) as cache:
        answer(hf.model(), text, cache)
        cache.close(ids)
    with open_cache(hf, manager, ids) as cache:
        assert cache.get_seq_length() == 7


# -- models ------------------------------------------------------------------------------


def test_models_of_one_shape_never_see_the_tokens_of_each_other(
    hf: Any, manager: KVCacheManager
) -> None:
    text, other = hf.words(9), hf.model(seed=9)
    take_turn(hf, manager, text)
    for session in ("chat", "elsewhere", None):
        said, computed = take_turn(hf, manager, text, session, other)
        assert hf.torch.equal(said, expected(hf, text, other))
        assert computed >= 1 + ANSWER - 1
    with open_cache(hf, manager, text, "third", hf.model(seed=5)) as cache:
        assert cache.get_seq_length() == 0


def test_a_name_of_the_model_or_a_salt_keeps_apart(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    held = []
    for options in ({}, {}, {"model_id": "adapter"}, {"model_id": "adapter"}, {"salt": "tenant"}):
        with open_cache(hf, manager, text, None, **options) as cache:
            held.append(cache.get_seq_length())
            answer(hf.model(), text, cache)
    assert held == [0, 8, 0, 8, 0]


def test_without_a_model_its_name_must_be_given(hf: Any, make_manager: MakeManager) -> None:
    manager = make_manager(layout=hf.model_layout(hf.model()))
    with pytest.raises(InvalidArgumentError, match="pass model=, or model_id="):
        hf.PooledCache.for_tokens(manager, hf.words(5), "chat")
    assert len(manager) == 0
    text = hf.words(5)
    for held in (0, 4):
        with hf.PooledCache.for_tokens(manager, text, "chat", model_id="tiny") as cache:
            assert cache.get_seq_length() == held
            assert hf.torch.equal(answer(hf.model(), text, cache), expected(hf, text))


# -- one cache for a session -------------------------------------------------------------


def test_two_caches_on_one_live_session(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    cache = open_cache(hf, manager, text)
    answer(hf.model(), text, cache)
    with pytest.raises(CacheInUseError, match="transformers/chat is open"):
        open_cache(hf, manager, text)
    with pytest.raises(CacheInUseError, match="transformers/chat is open"):
        hf.PooledCache.for_model(manager, hf.model(), "chat")
    assert cache.get_seq_length() == 9 + ANSWER - 1
    cache.close()
    with open_cache(hf, manager, text) as again:
        assert again.get_seq_length() == 8


def test_a_session_of_known_tokens_does_not_go_on_by_its_name(
    hf: Any, manager: KVCacheManager
) -> None:
    take_turn(hf, manager, hf.words(9))
    model = hf.model()
    for options in ({"model": model}, {"config": model.config, "dtype": "float32"}):
        with pytest.raises(EntryKindError, match=r"can only go on with PooledCache\.for_tokens"):
            hf.PooledCache(manager, "chat", **options)
    assert take_turn(hf, manager, hf.words(9))[1] == 1 + ANSWER - 1


def test_a_session_of_unknown_tokens_does_not_go_on_by_tokens(
    hf: Any, manager: KVCacheManager
) -> None:
    with hf.PooledCache.for_model(manager, hf.model(), "chat") as cache:
        answer(hf.model(), hf.words(9), cache)
    with pytest.raises(EntryExistsError, match="tokens are not known"):
        open_cache(hf, manager, hf.words(9))
    assert hf.PooledCache.for_model(manager, hf.model(), "chat").get_seq_length() == 8 + ANSWER


def test_a_closed_cache_cannot_be_used(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    cache = open_cache(hf, manager, text)
    said = answer(hf.model(), text, cache)
    cache.close(said)
    cache.close()  # once is enough
    with pytest.raises(EntryRemovedError):
        hf.forward(hf.model(), text[:, :1], cache)
    with open_cache(hf, manager, said) as again:
        assert again.get_seq_length() == said.shape[1] - 1


# -- what is kept ------------------------------------------------------------------------


def test_without_the_answer_the_prompt_is_kept(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    with open_cache(hf, manager, text) as cache:
        said = answer(hf.model(), text, cache)
    with open_cache(hf, manager, said) as cache:
        assert cache.get_seq_length() == 9


def test_a_cache_that_nothing_refers_to_leaves_its_prompt(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    cache = open_cache(hf, manager, text)
    said = answer(hf.model(), text, cache)
    del cache
    with open_cache(hf, manager, said) as again:
        assert again.get_seq_length() == 9


def test_an_error_in_the_block_keeps_the_prompt(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)

    def fail() -> None:
        with open_cache(hf, manager, text) as cache:
            answer(hf.model(), text, cache)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with open_cache(hf, manager, text) as cache:
        assert cache.get_seq_length() == 8


def test_tokens_that_were_dropped_are_not_kept_as_the_prompt(
    hf: Any, manager: KVCacheManager
) -> None:
    text = hf.words(9)
    with open_cache(hf, manager, text) as cache:
        hf.forward(hf.model(), text, cache)
        cache.crop(4)
        hf.forward(hf.model(), hf.words(9, seed=3), cache)  # other tokens in their place
    said, computed = take_turn(hf, manager, text)
    assert hf.torch.equal(said, expected(hf, text))
    assert computed == 9 - 4 + ANSWER - 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said[:, 1:], "was opened with token 100 at position 0, and is closed with"),
        (lambda said: said[:, :5], "was opened with 9 tokens, and is closed with 5"),
        (lambda said: said.repeat(2, 1), r"of one sequence, .* not \(2, 15\)"),
        (lambda said: said.float(), r"whole numbers, not .*100\.0"),
        (lambda _: "said", "whole numbers|of one sequence"),
    ],
)
def test_wrong_tokens_at_the_end_are_refused(
    hf: Any, manager: KVCacheManager, change: Any, reason: str
) -> None:
    text = hf.words(9)
    cache = open_cache(hf, manager, text)
    said = answer(hf.model(), text, cache)
    with pytest.raises(InvalidTokensError, match=reason):
        cache.close(change(said))
    assert cache.get_seq_length() == said.shape[1] - 1
    assert manager.is_open(KEY)
    cache.close(said)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([[1, 2], [3, 4]], r"not \(2, 2\)"),
        ([1.5, 2], r"not 1\.5"),
        (7, "not 7"),
        ([True, False], "not True"),
        ([[1, 2], [3]], "whole numbers"),
        (None, "of one sequence|whole numbers"),
    ],
)
def test_ids_that_are_refused(hf: Any, manager: KVCacheManager, ids: Any, reason: str) -> None:
    with pytest.raises(InvalidTokensError, match=reason):
        open_cache(hf, manager, ids)
    assert len(manager) == 0


def test_only_a_cache_that_knows_its_tokens_is_closed(hf: Any, manager: KVCacheManager) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "named")
    with pytest.raises(InvalidArgumentError, match="make the cache with for_tokens"):
        cache.close(hf.words(3))


def test_the_pool_or_the_session_may_go_before_the_cache(hf: Any) -> None:
    manager = KVCacheManager(1 << 24, "numpy", receipts=False)
    with open_cache(hf, manager, hf.words(9)) as cache:
        answer(hf.model(), hf.words(9), cache)
        assert manager.remove_cache_entry(KEY)
    with open_cache(hf, manager, hf.words(9)) as cache:
        assert cache.get_seq_length() == 0
        manager.close()


# -- limits ------------------------------------------------------------------------------


def test_a_limit(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    with open_cache(hf, manager, text, max_context_length=12) as cache:
        with pytest.raises(ContextOverflowError):
            answer(hf.model(), text, cache)
        assert cache.get_max_cache_shape() == 12
    with pytest.raises(ContextOverflowError):
        open_cache(hf, manager, hf.words(13), max_context_length=12)
    with open_cache(hf, manager, text, max_context_length=64) as cache:
        assert cache.get_seq_length() == 8
        assert hf.torch.equal(answer(hf.model(), text, cache), expected(hf, text))


def test_a_full_pool_is_an_error_and_the_session_stays(hf: Any, make_manager: MakeManager) -> None:
    manager = make_manager(300 * hf.model_layout(hf.model()).bytes_per_token)
    text = hf.words(60)
    with open_cache(hf, manager, text) as cache, pytest.raises(PoolExhaustedError):
        answer(hf.model(), text, cache, max_new_tokens=400)
    said, computed = take_turn(hf, manager, text)
    assert hf.torch.equal(said, expected(hf, text))
    assert computed == 1 + ANSWER - 1


# -- batches -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "mmap"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_beams_begin_with_the_prompt_that_is_held(
    hf: Any, make_manager: MakeManager, backend: str, rounds: int
) -> None:
    manager, text = make_manager(backend=backend), hf.words(9)
    for _ in range(rounds):
        with open_cache(hf, manager, text) as cache:
            assert hf.torch.equal(
                answer(hf.model(), text, cache, num_beams=3), expected(hf, text, num_beams=3)
            )
            assert cache.batch_size == 3
            assert str(cache.key).startswith("transformers/chat~")
        assert cache.key not in manager
        take_turn(hf, manager, text)
    with open_cache(hf, manager, text) as cache:
        assert cache.get_seq_length() == 8


def test_a_fork_goes_on_by_its_name(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    with open_cache(hf, manager, text) as cache:
        said = answer(hf.model(), text, cache)
        with cache.fork("branch") as branch:
            more = joined(hf, said, hf.words(3, seed=2))
            assert hf.torch.equal(answer(hf.model(), more, branch), expected(hf, more))
        cache.close(said)
    assert take_turn(hf, manager, said)[1] == 1 + ANSWER - 1


def test_assistants_drop_what_is_not_accepted(hf: Any, manager: KVCacheManager) -> None:
    text = hf.words(9)
    with open_cache(hf, manager, text) as cache:
        said = answer(hf.model(), text, cache, prompt_lookup_num_tokens=3)
        cache.close(said)
    assert hf.torch.equal(said, expected(hf, text))
    again, computed = take_turn(hf, manager, said)
    assert hf.torch.equal(again, expected(hf, said))
    assert computed <= 2 + ANSWER


def test_tiers_learn_how_fast_prompts_are_computed(hf: Any, make_manager: MakeManager) -> None:
    with TierStore(["memory:"]) as store:
        manager = make_manager(tiers=store)
        for count, is_told in ((15, False), (40, True)):
            with hf.PooledCache.for_tokens(
                manager, hf.words(count, seed=count), model=hf.model()
            ) as cache:
                hf.forward(hf.model(), hf.words(count, seed=count), cache)
            rate = store.stats().compute_rate
            assert (rate is not None and rate > 0) == is_told
