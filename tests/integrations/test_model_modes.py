"""Models under autocast, compiled, or with other weights than those of the session."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from kvpool.errors import EntryKindError, InvalidTokensError
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("held", ["float32", "bfloat16"])
def test_states_of_autocast_are_cast_to_the_layout(
    hf: Any, manager: KVCacheManager, held: str, attention: str
) -> None:
    model = hf.transformers.LlamaForCausalLM(hf.model().config).eval()
    model.set_attn_implementation(attention)
    pooled = hf.PooledCache.for_model(manager, model, "s", dtype=held)
    dynamic = hf.DynamicCache()
    with hf.torch.autocast("cpu", dtype=hf.torch.bfloat16):
        for number, count in enumerate((9, 1, 1, 4)):
            step = hf.words(count, seed=number)
            expected = hf.forward(model, step, dynamic)
            assert hf.torch.equal(hf.forward(model, step, pooled), expected)
    assert str(entry_of(manager, pooled.key).layout.dtype) == held


@pytest.mark.parametrize("mode", ["autocast", "inference", "training", "compiled"])
def test_a_batch_of_one_computes_what_it_computes_alone(
    hf: Any, manager: KVCacheManager, mode: str
) -> None:
    hf.register_attention()
    config = hf.transformers.LlamaConfig(**{**hf.model().config.to_dict(), "attention_dropout": 0})
    model = hf.transformers.LlamaForCausalLM(config).train(mode == "training")
    model.set_attn_implementation("kvpool")
    called = hf.torch.compile(model, backend="eager") if mode == "compiled" else model
    context: Any = contextlib.nullcontext()
    if mode == "autocast":
        context = hf.torch.autocast("cpu", dtype=hf.torch.bfloat16)
    elif mode == "inference":
        context = hf.torch.inference_mode()
    caches = [hf.PooledCache.for_model(manager, called, name) for name in ("s", "a")]
    batch = hf.PooledBatch(caches[:1])
    with context:
        for number, count in enumerate((9, 1, 1, 4)):
            step = hf.words(count, seed=number)
            (logits,) = batch.step(called, step).logits
            assert not logits.requires_grad
            expected = hf.forward(model, step, caches[1], logits_to_keep=1)[0, -1]
            assert hf.torch.equal(logits, expected)
    assert hf.same_cache(*caches)


def test_no_other_states_are_cast(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model()
    half = hf.PooledCache.for_model(manager, model, "half", dtype="bfloat16")
    with pytest.raises(InvalidTokensError, match="are float32, the layout is bfloat16"):
        hf.forward(model, hf.words(3), half)
    other = hf.PooledCache.for_model(manager, model, "other", dtype="float16")
    with (
        hf.torch.autocast("cpu", dtype=hf.torch.bfloat16),
        pytest.raises(InvalidTokensError, match="are float32, the layout is float16"),
    ):
        hf.forward(model, hf.words(3), other)
    assert not manager.session_keys()


def test_a_compiled_model_breaks_its_graph_at_the_cache(hf: Any, make_manager: MakeManager) -> None:
    hf.torch.compiler.reset()
    model = hf.model()
    compiled = hf.torch.compile(model, backend="eager")
    for backend in ("numpy", "mmap"):
        pooled = hf.PooledCache.for_model(make_manager(backend=backend), compiled, "s")
        dynamic = hf.DynamicCache(config=model.config)
        for number, count in enumerate((9, 1, 1, 1, 4, 1)):
            step = hf.words(count, seed=number)
            expected = hf.forward(model, step, dynamic)
            assert hf.torch.equal(hf.forward(compiled, step, pooled), expected)
        pooled.crop(-3)
        assert pooled.get_seq_length() == 14
    hf.torch.compiler.reset()


def test_one_graph_with_a_cache_is_refused_by_its_name(hf: Any, manager: KVCacheManager) -> None:
    hf.torch.compiler.reset()
    whole = hf.torch.compile(hf.model(), backend="eager", fullgraph=True)
    pooled = hf.PooledCache.for_model(manager, whole, "s")
    with pytest.raises(Exception, match=r"PooledCache"):
        hf.forward(whole, hf.words(3), pooled)
    assert pooled.get_seq_length() == 0
    hf.torch.compiler.reset()


def test_no_model_goes_on_from_the_tokens_of_other_weights(
    hf: Any, manager: KVCacheManager
) -> None:
    one, other = hf.model(), hf.model(seed=9)
    cache = hf.PooledCache.for_model(manager, one, "chat")
    hf.forward(one, hf.words(5), cache)
    cache.release()
    with pytest.raises(EntryKindError, match=r"5 tokens of transformers/chat .* other weights"):
        hf.PooledCache.for_model(manager, other, "chat")
    assert hf.PooledCache.for_model(manager, one, "chat").get_seq_length() == 5
    elsewhere = hf.PooledCache.for_model(manager, other, "chat", namespace="other")
    assert elsewhere.get_seq_length() == 0
    assert manager.remove_cache_entry(cache.key)
    assert hf.PooledCache.for_model(manager, other, "chat").get_seq_length() == 0


def test_forks_and_batches_keep_the_weights(hf: Any, manager: KVCacheManager) -> None:
    one, other = hf.model(), hf.model(seed=9)
    cache = hf.PooledCache.for_model(manager, one, "chat")
    hf.forward(one, hf.words(5), cache)
    cache.fork("fork")
    cache.batch_repeat_interleave(2)
    for name in ("chat", "fork"):
        with pytest.raises(EntryKindError, match="other weights"):
            hf.PooledCache.for_model(manager, other, name)


def test_copies_of_a_model_and_emptied_sessions_go_on(hf: Any, manager: KVCacheManager) -> None:
    one = hf.model()
    twin = hf.transformers.LlamaForCausalLM(one.config)
    twin.load_state_dict(one.state_dict())
    cache = hf.PooledCache.for_model(manager, one, "chat")
    hf.forward(one, hf.words(5), cache)
    assert hf.PooledCache.for_model(manager, twin, "chat").get_seq_length() == 5
    cache.reset()
    other = hf.PooledCache.for_model(manager, hf.model(seed=9), "chat")
    hf.forward(hf.model(seed=9), hf.words(5), other)
    with pytest.raises(EntryKindError, match="other weights"):
        hf.PooledCache.for_model(manager, one, "chat")


@pytest.mark.parametrize("backend", ["numpy", "mmap"])
@pytest.mark.parametrize(("argument", "kept"), [(-5, 0), (-3, 0), (-1, 2), (2, 2), (9, 3), (0, 3)])
def test_crop_keeps_what_there_is(
    hf: Any, make_manager: MakeManager, backend: str, argument: int, kept: int
) -> None:
    cache = hf.PooledCache.for_model(make_manager(backend=backend), hf.model(), "s")
    hf.forward(hf.model(), hf.words(3), cache)
    cache.crop(argument)
    assert cache.get_seq_length() == kept
    expected = hf.DynamicCache()
    if kept:
        hf.forward(hf.model(), hf.words(3)[:, :kept], expected)
    step = hf.words(2, seed=1)
    mine, theirs = (hf.forward(hf.model(), step, one) for one in (cache, expected))
    assert hf.torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("argument", [2.5, "2", None])
def test_crop_takes_whole_numbers(hf: Any, manager: KVCacheManager, argument: Any) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    hf.forward(hf.model(), hf.words(3), cache)
    with pytest.raises(InvalidTokensError, match="tokens_to_remove must be a whole number"):
        cache.crop(argument)
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize("repeats", [0, -1, 1.5, "2"])
def test_sequences_are_repeated_a_whole_number_of_times(
    hf: Any, manager: KVCacheManager, repeats: Any
) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    hf.forward(hf.model(), hf.words(3), cache)
    with pytest.raises(InvalidTokensError, match="repeats must be"):
        cache.batch_repeat_interleave(repeats)
    assert (cache.get_seq_length(), cache.batch_size) == (3, 1)


@pytest.mark.parametrize("length", [3, 9, 12, 13, 14])
def test_a_prompt_shorter_than_the_session_does_as_with_a_dynamic_cache(
    hf: Any, make_manager: MakeManager, length: int
) -> None:
    model = hf.model()

    def second_turn(cache: Any) -> Any:
        options = {"max_new_tokens": 5, "do_sample": False}
        said = model.generate(hf.words(9), **hf.given(model, cache), **options)
        try:
            return model.generate(said[:, :length], **hf.given(model, cache), **options).tolist()
        except Exception as error:
            return type(error)

    pooled = hf.PooledCache.for_model(make_manager(backend="mmap"), model, "s")
    assert second_turn(pooled) == second_turn(hf.DynamicCache(config=model.config))


def test_a_session_of_one_prompt_for_several_answers_says_what_to_call(
    hf: Any, make_manager: MakeManager
) -> None:
    model = hf.model()
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    expected = model.generate(hf.words(9), **options)
    for backend in ("numpy", "mmap"):
        cache = hf.PooledCache.for_model(make_manager(backend=backend), model, "s")
        hf.forward(model, hf.words(9)[:, :5], cache)
        with pytest.raises(InvalidTokensError, match=r"for 3: call batch_repeat_interleave"):
            model.generate(hf.words(9), **hf.given(model, cache), **options)
        assert cache.get_seq_length() == 5
        cache.batch_repeat_interleave(3)
        found = model.generate(hf.words(9), **hf.given(model, cache), **options)
        assert hf.torch.equal(found, expected)
