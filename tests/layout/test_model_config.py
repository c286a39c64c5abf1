"""Layouts from configurations, without the library whose attribute names they have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kvpool.errors import InvalidLayoutError
from kvpool.layout import KVLayout
from kvpool.layout._model_config import LayerKind, layer_kinds

CACHED, EMPTY = LayerKind(is_cached=True), LayerKind(is_cached=False)


def config(**changes: Any) -> SimpleNamespace:
    common = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512}
    return SimpleNamespace(**(common | {"dtype": "float16"} | changes))


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, "4 x 8 x 64 float16"),
        ({"num_key_value_heads": 2}, "4 x 2 x 64 float16"),
        ({"num_key_value_heads": None, "head_dim": None}, "4 x 8 x 64 float16"),
        ({"head_dim": 128}, "4 x 8 x 128 float16"),
        ({"head_dim": 96, "hidden_size": None, "num_key_value_heads": 1}, "4 x 1 x 96 float16"),
        ({"dtype": None, "torch_dtype": "bfloat16"}, "4 x 8 x 64 bfloat16"),
        ({"layer_types": ["full_attention"] * 3 + ["mlp"]}, "3 x 8 x 64 float16"),
        ({"num_kv_shared_layers": 3}, "1 x 8 x 64 float16"),
    ],
)
def test_the_layout_of_a_model(changes: dict[str, Any], layout: str) -> None:
    assert str(KVLayout.from_config(config(**changes))) == layout


def test_the_language_model_inside_of_another_is_meant() -> None:
    outer = SimpleNamespace(text_config=config(num_hidden_layers=2), dtype="float32")
    assert str(KVLayout.from_config(outer)) == "2 x 8 x 64 float16"
    assert str(KVLayout.from_config(config(text_config=None))) == "4 x 8 x 64 float16"


class Named:
    """Shows itself as a dtype of torch does."""

    def __str__(self) -> str:
        return "torch.bfloat16"


@pytest.mark.parametrize("dtype", ["bfloat16", ml_dtypes.bfloat16, Named()])
def test_a_dtype_that_is_given_goes_first(dtype: Any) -> None:
    name = np.dtype(dtype) if isinstance(dtype, type) else dtype
    assert str(KVLayout.from_config(config(), dtype=name)) == "4 x 8 x 64 bfloat16"


def test_windows() -> None:
    assert layer_kinds(config()) == [CACHED] * 4
    assert layer_kinds(config(sliding_window=None)) == [CACHED] * 4
    assert layer_kinds(config(sliding_window=9)) == [LayerKind(is_cached=True, window=9)] * 4
    chunks = layer_kinds(config(attention_chunk_size=7))
    assert chunks == [LayerKind(is_cached=True, window=7)] * 4
    mixed = ["full_attention", "sliding_attention", "chunked_attention", "moe"]
    assert layer_kinds(config(layer_types=mixed, sliding_window=9, attention_chunk_size=7)) == [
        CACHED,
        LayerKind(is_cached=True, window=9),
        LayerKind(is_cached=True, window=7),
        EMPTY,
    ]
    assert mixed[3] == "moe"


def test_layers_that_reuse_the_tokens_of_others_keep_nothing() -> None:
    modes = [None, "store", "reuse", "reuse"]
    assert layer_kinds(config(kv_sharing_modes=modes)) == [CACHED, CACHED, EMPTY, EMPTY]
    assert layer_kinds(config(num_kv_shared_layers=1)) == [CACHED] * 3 + [EMPTY]


def test_layers_with_configurations_of_their_own() -> None:
    own = [config(sliding_window=5), config(), config(), config()]
    assert layer_kinds(config(per_layer_config=own))[:2] == [
        LayerKind(is_cached=True, window=5),
        CACHED,
    ]
    own[2] = config(num_key_value_heads=2)
    with pytest.raises(InvalidLayoutError, match="these have 8 x 64, 2 x 64"):
        KVLayout.from_config(config(per_layer_config=own))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_hidden_layers": None}, "no number num_hidden_layers: None"),
        ({"num_attention_heads": "8"}, "no number num_attention_heads: '8'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; at least 1"),
        ({"num_hidden_layers": 10**12}, "1000000000000 layers are more than any model has"),
        ({"hidden_size": None}, "no number hidden_size"),
        ({"dtype": None}, "names no dtype"),
        ({"dtype": "float64"}, "unsupported dtype 'float64'; use"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, not 4"),
        ({"layer_types": ["full_attention", "mamba"] * 2}, "layer 1 is of the type 'mamba'"),
        ({"layer_types": ["sliding_attention"] * 4}, "no number sliding_window"),
        ({"layer_types": ["mlp"] * 4}, "the same heads, these have none"),
        ({"v_head_dim": 32}, "v_head_dim is 32, head_dim is 64"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_what_is_missing_or_cannot_be_held_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidLayoutError, match=text):
        KVLayout.from_config(config(**changes))


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({"multi_query": True}, "4 x 1 x 64 float16"),
        ({"multi_query": False, "num_key_value_heads": 2}, "4 x 2 x 64 float16"),
        ({"multi_query": True, "new_decoder_architecture": True}, "4 x 8 x 64 float16"),
        ({"decoder_layers": 6, "decoder_attention_heads": 16}, "6 x 16 x 32 float16"),
        ({"num_decoder_layers": 3, "num_decoder_attention_heads": 4}, "3 x 4 x 128 float16"),
        ({"dim_head": 96}, "4 x 8 x 96 float16"),
    ],
)
def test_other_names_of_heads_and_layers(changes: dict[str, Any], layout: str) -> None:
    assert str(KVLayout.from_config(config(**changes))) == layout


@pytest.mark.parametrize("model_type", ["cpmant", "dory", "mimo_v2_flash", "xlnet"])
def test_types_whose_configurations_mislead_are_refused(model_type: str) -> None:
    with pytest.raises(InvalidLayoutError, match=f"type '{model_type}' does not say .*: it"):
        KVLayout.from_config(config(model_type=model_type))


def test_a_type_inside_of_another_is_refused() -> None:
    outer = SimpleNamespace(text_config=config(model_type="mllama_text_model"), dtype="float32")
    with pytest.raises(InvalidLayoutError, match="cross-attention layers keep tokens of images"):
        KVLayout.from_config(outer)


def test_layers_of_an_encoder_do_not_count() -> None:
    encoder = [config()] * 2
    both = config(num_hidden_layers=2, decoder_layers=6, per_layer_config=encoder)
    assert str(KVLayout.from_config(both)) == "6 x 8 x 64 float16"
