"""`generate` with a `PooledCache`: in every mode the tokens and scores of a `DynamicCache`."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.manager import KVCacheManager

pytestmark = pytest.mark.transformers

MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "beams with sampling": {"do_sample": True, "num_beams": 3},
    "prefill in chunks": {"do_sample": False, "prefill_chunk_size": 4},
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3},
    "a repetition penalty": {"do_sample": False, "repetition_penalty": 1.3},
}


def generate(hf: Any, cache: Any, input_ids: Any, kind: str = "llama", **options: Any) -> Any:
    hf.torch.manual_seed(0)
    model = hf.model(kind)
    return model.generate(
        input_ids,
        attention_mask=(input_ids != 0).long(),
        **hf.given(model, cache),
        max_new_tokens=12,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


def same_outcome(hf: Any, one: Any, other: Any) -> bool:
    return hf.torch.equal(one.sequences, other.sequences) and all(
        map(hf.torch.equal, one.logits, other.logits)
    )


def pooled(hf: Any, manager: KVCacheManager, kind: str = "llama") -> Any:
    return hf.PooledCache.for_model(manager, hf.model(kind), "chat-42")


@pytest.mark.parametrize("mode", MODES)
def test_generate_makes_what_a_dynamic_cache_makes(
    hf: Any, manager: KVCacheManager, mode: str
) -> None:
    prompt, cache, dynamic = hf.words(9), pooled(hf, manager), hf.DynamicCache()
    mine = generate(hf, cache, prompt, **MODES[mode])
    theirs = generate(hf, dynamic, prompt, **MODES[mode])
    assert same_outcome(hf, mine, theirs)
    assert mine[hf.cache_argument(hf.model())] is cache
    assert hf.same_cache(cache, dynamic)


@pytest.mark.parametrize("mode", ["greedy", "sampling", "beams", "prefill in chunks"])
def test_batches_with_padding(hf: Any, manager: KVCacheManager, mode: str) -> None:
    prompts = hf.words(9, rows=3)
    prompts[0, :4] = prompts[2, :1] = 0  # padding stands on the left
    cache, dynamic = pooled(hf, manager), hf.DynamicCache()
    mine = generate(hf, cache, prompts, **MODES[mode])
    theirs = generate(hf, dynamic, prompts, **MODES[mode])
    assert same_outcome(hf, mine, theirs)
    assert hf.same_cache(cache, dynamic)
    assert cache.batch_size == (12 if mode == "beams" else 3)


@pytest.mark.parametrize("mode", ["greedy", "prefill in chunks", "prompt lookup"])
def test_turns_of_generate_go_on_from_the_session(
    hf: Any, manager: KVCacheManager, mode: str
) -> None:
    text = {"pooled": hf.words(5), "dynamic": hf.words(5)}
    dynamic = hf.DynamicCache()
    for turn in range(3):
        mine = generate(hf, pooled(hf, manager), text["pooled"], **MODES[mode])
        theirs = generate(hf, dynamic, text["dynamic"], **MODES[mode])
        assert same_outcome(hf, mine, theirs)
        question = hf.words(6, seed=turn)
        for name, outcome in (("pooled", mine), ("dynamic", theirs)):
            text[name] = hf.torch.cat([outcome.sequences, question], dim=-1)
    assert pooled(hf, manager).get_seq_length() == dynamic.get_seq_length() > 40


@pytest.mark.parametrize("sampled", [False, True])
def test_assisted_decoding(hf: Any, manager: KVCacheManager, sampled: bool) -> None:
    prompt, cache, dynamic = hf.words(9), pooled(hf, manager), hf.DynamicCache()
    how = {"do_sample": sampled, "assistant_model": hf.model(seed=1)}
    mine, theirs = generate(hf, cache, prompt, **how), generate(hf, dynamic, prompt, **how)
    assert same_outcome(hf, mine, theirs)
    assert hf.same_cache(cache, dynamic)
    if not sampled:
        plain = hf.PooledCache.for_model(manager, hf.model(), "plain")
        greedy = generate(hf, plain, prompt, do_sample=False)
        assert hf.torch.equal(mine.sequences, greedy.sequences)


@pytest.mark.parametrize("kind", ["sliding", "some sliding"])
@pytest.mark.parametrize("mode", ["greedy", "beams", "prefill in chunks", "prompt lookup"])
def test_models_with_windows(hf: Any, manager: KVCacheManager, kind: str, mode: str) -> None:
    prompt, cache = hf.words(13), pooled(hf, manager, kind)
    dynamic = hf.DynamicCache(config=hf.model(kind).config)
    mine = generate(hf, cache, prompt, kind, **MODES[mode])
    theirs = generate(hf, dynamic, prompt, kind, **MODES[mode])
    assert same_outcome(hf, mine, theirs)


def test_inference_mode_and_no_grad_may_take_turns(hf: Any, manager: KVCacheManager) -> None:
    model, cache, dynamic = hf.model(), pooled(hf, manager), hf.DynamicCache()
    for number, mode in enumerate([hf.torch.inference_mode, hf.torch.no_grad] * 2):
        step = hf.words(3, seed=number)
        with mode():
            mine = model(input_ids=step, **hf.given(model, cache)).logits
            theirs = model(input_ids=step, **hf.given(model, dynamic)).logits
            assert not any(tensor.is_inference() for tensor in hf.states(cache))
        assert hf.torch.equal(mine, theirs)


def test_a_streamer_gets_the_tokens(hf: Any, manager: KVCacheManager) -> None:
    seen: list[int] = []

    class Streamer:
        def put(self, value: Any) -> None:
            seen.extend(value.flatten().tolist())

        def end(self) -> None:
            seen.append(-1)

    made = generate(hf, pooled(hf, manager), hf.words(4), do_sample=False, streamer=Streamer())
    assert seen == [*made.sequences[0].tolist(), -1]
