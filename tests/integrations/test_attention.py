"""The attention function for grouped queries: the same as others, up to rounding."""

from __future__ import annotations

from typing import Any

import pytest

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
