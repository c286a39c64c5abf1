"""Layouts that are measured with one token, not read from a configuration."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from kvpool.errors import InvalidLayoutError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager

pytestmark = pytest.mark.transformers

FALCON = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "eos_token_id": None,
}


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({"multi_query": True}, "2 x 1 x 8 float32"),
        ({"multi_query": False}, "2 x 4 x 8 float32"),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, "2 x 4 x 8 float32"),
    ],
)
def test_each_falcon_has_its_heads(hf: Any, options: dict[str, Any], layout: str) -> None:
    config = hf.transformers.FalconConfig(**FALCON, **options)
    model = hf.transformers.FalconForCausalLM(config)
    assert str(hf.model_layout(model)) == layout
    assert str(KVLayout.from_config(config, "float32")) == layout


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_is_measured_or_given(hf: Any, dtype: str) -> None:
    model = hf.model(dtype=dtype)
    assert str(hf.model_layout(model)) == f"2 x 2 x 8 {dtype}"
    assert str(hf.model_layout(model, hf.torch.float16)) == "2 x 2 x 8 float16"
    with pytest.raises(InvalidLayoutError, match="float64"):
        hf.model_layout(model, "float64")


def test_a_model_is_measured_once_and_nothing_else_notices(hf: Any) -> None:
    model = hf.transformers.LlamaForCausalLM(hf.model().config).train()
    calls: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    model.register_forward_hook(lambda *_: calls.append(100))
    state = hf.torch.random.get_rng_state()
    with hf.torch.autocast("cpu", dtype=hf.torch.bfloat16):
        assert str(hf.model_layout(model)) == "2 x 2 x 8 float32"
    assert hf.model_layout(model) == hf.model_layout(model)
    assert calls == [1]
    assert hf.torch.equal(hf.torch.random.get_rng_state(), state)


def test_a_model_that_fails_is_named_with_what_it_raised(hf: Any, manager: KVCacheManager) -> None:
    model = hf.transformers.LlamaForCausalLM(hf.model().config)

    def forward(**_options: Any) -> None:
        raise RuntimeError("out of paper\nand more")

    model.forward = forward
    with pytest.raises(InvalidLayoutError, match=r"LlamaForCausalLM fails .*: out of paper\), so"):
        hf.PooledCache.for_model(manager, model, "s")
    assert not manager.session_keys()


def test_a_model_without_weights_is_refused(hf: Any, manager: KVCacheManager) -> None:
    with hf.torch.device("meta"):
        model = hf.transformers.LlamaForCausalLM(hf.model().config)
    with pytest.raises(InvalidLayoutError, match="LlamaForCausalLM is on the device meta"):
        hf.PooledCache.for_model(manager, model, "s")


def test_the_parameter_of_the_cache_has_the_name_of_the_release(hf: Any) -> None:
    measuring = importlib.import_module("kvpool.integrations._transformers.measuring")

    class Old:
        def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...

    class New:
        def forward(self, input_ids: Any, cache: Any = None) -> None: ...

    assert measuring.cache_argument(Old()) == "past_key_values"
    assert measuring.cache_argument(New()) == "cache"

    class Wrapped:
        def forward(self, *args: Any, **options: Any) -> None: ...

    newer = tuple(map(int, hf.transformers.__version__.split(".")[:2])) >= (5, 24)
    compiled = hf.torch.compile(hf.model(), backend="eager")
    for model in (hf.model(), compiled, Wrapped()):
        assert measuring.cache_argument(model) == ("cache" if newer else "past_key_values")
