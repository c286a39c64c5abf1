"""What transformers tests of its own caches, on a `PooledCache`.

The tests of transformers (its tests/utils/test_cache_utils.py and tests/generation) are in no
distribution, and most of them download models. These check the same, with small models of
random weights; a table in docs/transformers.md says which are here and why others are not.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kvpool.manager import KVCacheManager

pytestmark = pytest.mark.transformers


def generate(hf: Any, cache: Any, **inputs: Any) -> Any:
    options = {"max_new_tokens": 10, "do_sample": False, "return_dict_in_generate": True}
    return hf.model().generate(**inputs, **hf.given(hf.model(), cache), **options)


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 2), (8, 1)])
def test_mha_mqa_gqa(hf: Any, manager: KVCacheManager, heads: int, kv_heads: int) -> None:
    config = hf.transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=heads, num_key_value_heads=kv_heads
    )
    cache = hf.PooledCache(manager, "s", config=config, dtype="float32", max_context_length=10)
    keys, values = cache.update(*hf.torch.rand(2, 1, kv_heads, 1, 8), 0)
    assert keys.shape == values.shape == (1, kv_heads, 1, 8)


def test_update_appends_along_the_tokens(hf: Any, manager: KVCacheManager) -> None:
    """As `test_dynamic_cache` of the synthetic cache tests."""
    config = hf.transformers.LlamaConfig(
        hidden_size=1, num_hidden_layers=1, num_attention_heads=1, head_dim=1
    )
    cache = hf.PooledCache(manager, "s", config=config, dtype="float32")
    prefill = hf.torch.tensor([1.0, 2.0])[None, None, :, None]
    cache.update(prefill, prefill, 0)
    three, four = (hf.torch.tensor(number)[None, None, None, None] for number in (3.0, 4.0))
    keys, values = cache.update(three, three, 0)
    assert keys.flatten().tolist() == values.flatten().tolist() == [1, 2, 3]
    assert cache.update(four, four, 0)[0].flatten().tolist() == [1, 2, 3, 4]
    assert cache.layers[0].keys.flatten().tolist() == [1, 2, 3, 4]
    assert keys.flatten().tolist() == [1, 2, 3]


def test_a_sliding_layer_shows_its_window_and_what_is_new(hf: Any, manager: KVCacheManager) -> None:
    """As `test_sliding_window_cache`: the window moves on, token by token and in a long prefill."""
    config = hf.transformers.MistralConfig(
        hidden_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=1,
        sliding_window=4,
    )
    cache = hf.PooledCache(manager, "s", config=config, dtype="float32")

    def seen(*tokens: float) -> list[float]:
        new = hf.torch.tensor(tokens, dtype=hf.torch.float32)[None, None, :, None]
        attended: list[float] = cache.update(new, new, 0)[0].flatten().tolist()
        return attended

    assert seen(1, 2) == [1, 2]
    assert seen(3) == [1, 2, 3]
    assert seen(4) == [1, 2, 3, 4]
    assert seen(5) == [2, 3, 4, 5]
    cache.reset()
    assert seen(1, 2, 3, 4, 5, 6) == [1, 2, 3, 4, 5, 6]
    assert seen(7, 8) == [4, 5, 6, 7, 8]


def test_batch_select_indices(hf: Any, manager: KVCacheManager) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    states = hf.torch.rand(2, 4, 2, 10, 8)
    for layer in range(2):
        cache.update(*states, layer)
    chosen = hf.torch.tensor([2, 0])
    cache.batch_select_indices(chosen)
    for layer in range(2):
        assert hf.torch.equal(cache.layers[layer].keys, states[0, chosen])
        assert hf.torch.equal(cache.layers[layer].values, states[1, chosen])


def test_reorder_cache(hf: Any, manager: KVCacheManager) -> None:
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    states = hf.torch.rand(2, 4, 2, 10, 8)
    for layer in range(2):
        cache.update(*states, layer)
    order = hf.torch.tensor([1, 1, 3, 0])
    cache.reorder_cache(order)
    assert hf.torch.equal(cache.layers[1].values, states[1].index_select(0, order))


def test_batched(hf: Any, manager: KVCacheManager) -> None:
    """As `test_cache_batched`: each sequence is as it would be alone."""
    batch = hf.words(8, rows=2)
    batch[1, :3] = 0
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    made = generate(hf, cache, input_ids=batch, attention_mask=(batch != 0).long())
    assert isinstance(made[hf.cache_argument(hf.model())], hf.transformers.Cache)
    for row, prompt in ((0, batch[:1]), (1, batch[1:, 3:])):
        alone = generate(hf, hf.PooledCache.for_model(manager, hf.model(), row), input_ids=prompt)
        assert hf.torch.equal(made.sequences[row, 8:], alone.sequences[0, -10:])


def test_beam_search_reorders(hf: Any, manager: KVCacheManager) -> None:
    """As `test_cache_beam_search`: some beam goes over to another one on its way."""
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    made = hf.model().generate(
        hf.words(5),
        **hf.given(hf.model(), cache),
        max_new_tokens=20,
        do_sample=False,
        num_beams=2,
        num_return_sequences=2,
        return_dict_in_generate=True,
    )
    assert any(len(set(beams.tolist()) - {-1}) > 1 for beams in made.beam_indices)
    usual = hf.model().generate(
        hf.words(5), max_new_tokens=20, do_sample=False, num_beams=2, num_return_sequences=2
    )
    assert hf.torch.equal(made.sequences, usual)


def test_extra_left_padding_changes_nothing(hf: Any, manager: KVCacheManager) -> None:
    prompt = hf.words(6)
    padded = hf.torch.cat([hf.torch.zeros(1, 26, dtype=prompt.dtype), prompt], dim=-1)
    made = [
        generate(
            hf,
            hf.PooledCache.for_model(manager, hf.model(), ids.shape[1]),
            input_ids=ids,
            attention_mask=(ids != 0).long(),
        ).sequences[0, -10:]
        for ids in (prompt, padded)
    ]
    assert hf.torch.equal(*made)


def test_copies_of_a_prompt_are_answered_apart(hf: Any, manager: KVCacheManager) -> None:
    """As `test_cache_copy`: one computed prompt, a deep copy of the cache for each answer."""
    prefix = hf.words(12)
    prompts = hf.PooledCache.for_model(manager, hf.model(), "prompt")
    hf.forward(hf.model(), prefix, prompts)
    for number in range(2):
        text = hf.torch.cat([prefix, hf.words(3, seed=number)], dim=-1)
        made = generate(hf, copy.deepcopy(prompts), input_ids=text)
        assert hf.torch.equal(made.sequences, generate(hf, None, input_ids=text).sequences)
    assert prompts.get_seq_length() == 12


@pytest.mark.parametrize("taken", ["ids", "embeddings"])
def test_generate_goes_on_from_past_key_values(
    hf: Any, manager: KVCacheManager, taken: str
) -> None:
    """As the tests of continuing from a cache: twice three tokens are once six."""
    model, prompt = hf.model(), hf.words(7)
    cache = hf.PooledCache.for_model(manager, model, "s")
    options = {"do_sample": False, "return_dict_in_generate": True}
    whole = model.generate(prompt, max_new_tokens=6, **options).sequences
    first = model.generate(prompt, **hf.given(model, cache), max_new_tokens=3, **options)
    inputs = {"input_ids": first.sequences}
    if taken == "embeddings":
        inputs["inputs_embeds"] = model.get_input_embeddings()(first.sequences)
    then = model.generate(**inputs, **hf.given(model, cache), max_new_tokens=3, **options)
    assert hf.torch.equal(then.sequences[0, -3:], whole[0, -3:])


def test_the_shape_of_what_is_held(hf: Any, manager: KVCacheManager) -> None:
    """As `test_past_key_values_format`."""
    cache = hf.PooledCache.for_model(manager, hf.model(), "s")
    hf.forward(hf.model(), hf.words(5, rows=3), cache)
    assert len(cache) == hf.model().config.num_hidden_layers
    assert [tensor.shape for tensor in hf.states(cache)] == [(3, 2, 5, 8)] * 4
    assert (cache.is_initialized, cache.is_compileable, cache.is_croppable) == (True, False, True)
    assert cache.is_sliding == [False] * 2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention(hf: Any, manager: KVCacheManager, attention: str) -> None:
    model = copy.deepcopy(hf.model())
    model.set_attn_implementation(attention)
    cache, dynamic = hf.PooledCache.for_model(manager, model, "s"), hf.DynamicCache()
    steps = zip(hf.converse(model, cache, 2), hf.converse(model, dynamic, 2), strict=True)
    assert all(hf.torch.equal(mine, theirs) for mine, theirs in steps)
