"""Layers that attend to a window, that keep nothing, or that a pool cannot hold."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.errors import InvalidLayoutError
from kvpool.manager import KVCacheManager
from tests.support.managers import entry_of

pytestmark = pytest.mark.transformers


def pair(hf: Any, manager: KVCacheManager, kind: str) -> tuple[Any, Any]:
    model = hf.model(kind)
    pooled = hf.PooledCache.for_model(manager, model, "chat-42")
    return pooled, hf.DynamicCache(config=model.config)


@pytest.mark.parametrize("kind", ["sliding", "some sliding"])
@pytest.mark.parametrize("steps", [[3] * 6, [1] * 20, [20, 1, 1, 5], [7, 1, 1, 1], [8, 9, 1]])
def test_windows_have_the_bits_of_a_dynamic_cache(
    hf: Any, manager: KVCacheManager, kind: str, steps: list[int]
) -> None:
    pooled, dynamic = pair(hf, manager, kind)
    model = hf.model(kind)
    for number, count in enumerate(steps):
        step = hf.words(count, seed=number)
        for query in (1, 3):
            for layer in range(2):
                mine, theirs = (one.get_mask_sizes(query, layer) for one in (pooled, dynamic))
                assert mine == theirs
        assert hf.torch.equal(hf.forward(model, step, pooled), hf.forward(model, step, dynamic))
        assert pooled.get_seq_length() == dynamic.get_seq_length()
    assert pooled.is_sliding == dynamic.is_sliding
    assert pooled.layers[0].keys.shape[2] == sum(steps)  # all of them stay


def test_a_window_can_be_cropped_past_its_end(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model("sliding")
    pooled, dynamic = pair(hf, manager, "sliding")
    dynamic.activate_past_recording()  # it would throw away what the crop needs
    for cache in (pooled, dynamic):
        hf.forward(model, hf.words(30), cache)
        cache.crop(-20)
    assert pooled.is_croppable
    assert pooled.get_seq_length() == dynamic.get_seq_length() == 10
    step = hf.words(3, seed=1)
    assert hf.torch.equal(hf.forward(model, step, pooled), hf.forward(model, step, dynamic))


def test_without_a_config_windows_are_only_masks(hf: Any, manager: KVCacheManager) -> None:
    model = hf.model("sliding")
    manager.layout = hf.model_layout(model)
    plain, dynamic = hf.PooledCache(manager, "plain"), hf.DynamicCache()
    for count in (12, 1, 5):
        step = hf.words(count)
        assert hf.torch.equal(hf.forward(model, step, plain), hf.forward(model, step, dynamic))


def test_chunks_are_windows(hf: Any, manager: KVCacheManager) -> None:
    config = hf.transformers.LlamaConfig(**hf.model().config.to_dict())
    config.layer_types = ["chunked_attention", "full_attention"]
    config.attention_chunk_size = 4
    pooled = hf.PooledCache(manager, "chat-42", config=config, dtype="float32")
    dynamic = hf.DynamicCache(config=config)
    for count in (3, 1, 1, 6, 1):
        new = hf.torch.randn(2, 1, 2, count, 8)
        for layer in range(2):
            assert pooled.get_mask_sizes(count, layer) == dynamic.get_mask_sizes(count, layer)
            mine, theirs = pooled.update(*new, layer), dynamic.update(*new, layer)
            assert all(map(hf.torch.equal, mine, theirs))


def test_layers_that_keep_nothing_are_empty(hf: Any, manager: KVCacheManager) -> None:
    config = hf.transformers.LlamaConfig(**hf.model().config.to_dict())
    config.num_hidden_layers = 4
    config.layer_types = ["moe", "full_attention", "mlp", "full_attention"]
    cache = hf.PooledCache(manager, "chat-42", config=config, dtype="float32")
    assert [layer.keys is layer.values is None for layer in cache.layers] == [True] * 4
    for layer in (1, 3):
        cache.update(*hf.torch.randn(2, 1, 2, 5, 8), layer)
    assert cache.get_seq_length() == cache.get_seq_length(3) == 5
    entry = entry_of(manager, cache.key)
    assert entry.layout.layers == 2
    assert entry.token_count == 5
    assert [layer.keys is None for layer in cache.layers] == [True, False, True, False]
    assert cache.get_max_length() == -1
    with pytest.raises(NotImplementedError, match="keeps no keys and values"):
        cache.update(*hf.torch.randn(2, 1, 2, 5, 8), 0)


def test_layers_that_reuse_the_tokens_of_others_are_empty(hf: Any, manager: KVCacheManager) -> None:
    config = hf.transformers.Gemma3nTextConfig(
        num_hidden_layers=6, num_kv_shared_layers=2, layer_types=["full_attention"] * 6
    )
    cache = hf.PooledCache(manager, "chat-42", config=config, dtype="bfloat16")
    for layer in range(4):
        cache.update(*hf.torch.zeros(2, 1, 2, 1, 256, dtype=hf.torch.bfloat16), layer)
    assert [layer.keys is None for layer in cache.layers] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("family", "options", "text"),
    [
        ("Mamba", {}, "layer 0 is of the type 'linear_attention'"),
        ("Qwen3Next", {}, "layer 0 is of the type 'linear_attention'"),
        ("Lfm2", {"full_attn_idxs": [0]}, "layer 1 is of the type 'conv'"),
        ("DeepseekV32", {}, "layer 0 is of the type 'indexed_attention'"),
        ("DeepseekV3", {}, "qk_head_dim is 192, head_dim is 64"),
        ("Gemma4Text", {}, "the same heads, these have 4 x 256, 4 x 512"),
        ("T5", {}, "encoder-decoder"),
    ],
)
def test_states_that_a_pool_cannot_hold_are_refused(
    hf: Any, manager: KVCacheManager, family: str, options: dict[str, Any], text: str
) -> None:
    config = getattr(hf.transformers, f"{family}Config")(**options)
    with pytest.raises(InvalidLayoutError, match=text):
        hf.PooledCache(manager, "chat-42", config=config, dtype="float32")
