"""The attention function for grouped queries: the same as others, up to rounding."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from kvpool.errors import InvalidArgumentError

pytestmark = pytest.mark.transformers

KINDS = ["llama", "heads of their own", "one head", "sliding"]


def logits(hf: Any, model: Any, cache: Any) -> list[Any]:
    return list(hf.converse(model, cache))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_sdpa_up_to_rounding(hf: Any, kind: str) -> None:
    model = hf.model(kind)
    expected = logits(hf, model, hf.DynamicCache(config=model.config))
    model.set_attn_implementation(hf.register_attention())
    found = logits(hf, model, hf.DynamicCache(config=model.config))
    model.set_attn_implementation("sdpa")
    assert len(found) == len(expected) > 3
    for mine, theirs in zip(found, expected, strict=True):
        hf.torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pooled_cache_has_the_bits_of_a_dynamic_one(
    hf: Any, make_manager: Any, dtype: str
) -> None:
    model = hf.model(dtype=dtype)
    model.set_attn_implementation(hf.register_attention())
    pooled = hf.PooledCache.for_model(make_manager(backend="numpy"), model, "chat")
    steps = zip(logits(hf, model, pooled), logits(hf, model, hf.DynamicCache()), strict=True)
    same = [hf.torch.equal(mine, theirs) for mine, theirs in steps]
    model.set_attn_implementation("sdpa")
    assert all(same)


def test_a_padded_batch_keeps_its_mask(hf: Any) -> None:
    model = hf.model()
    ids = hf.words(6, rows=2)
    mask = hf.torch.ones_like(ids)
    mask[0, :3] = 0
    expected = model(ids, attention_mask=mask).logits
    model.set_attn_implementation(hf.register_attention())
    found = model(ids, attention_mask=mask).logits
    model.set_attn_implementation("sdpa")
    hf.torch.testing.assert_close(found[1], expected[1])
    hf.torch.testing.assert_close(found[0, 3:], expected[0, 3:])


def test_a_masked_step_of_one_token_is_that_of_sdpa_up_to_rounding(hf: Any) -> None:
    model = hf.model()
    ids = hf.words(6, rows=2)
    mask = hf.torch.ones_like(ids)
    mask[0, :3] = 0
    more = hf.torch.cat([mask, hf.torch.ones((2, 1), dtype=mask.dtype)], 1)
    found = {}
    for attention in ("sdpa", hf.register_attention()):
        model.set_attn_implementation(attention)
        cache = hf.DynamicCache()
        hf.forward(model, ids, cache, attention_mask=mask)
        found[attention] = hf.forward(model, ids[:, :1], cache, attention_mask=more)
    model.set_attn_implementation("sdpa")
    hf.torch.testing.assert_close(found["kvpool"], found["sdpa"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["softcap", "s_aux", "sinks"])
def test_a_model_that_needs_more_than_sums_is_refused(hf: Any, option: str) -> None:
    model = hf.model()
    states = hf.torch.zeros((1, 4, 1, 8))
    grouped = importlib.import_module("kvpool.integrations._transformers.attention")
    with pytest.raises(InvalidArgumentError, match=f"knows no {option}, which Linear needs"):
        grouped.grouped_attention(model.lm_head, *[states] * 3, None, **{option: 30.0})
