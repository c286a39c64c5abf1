"""What a model's configuration says about its KV cache.

Any object with the attribute names of Hugging Face transformers will do; transformers itself
is not needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvpool.errors import InvalidLayoutError

__all__ = ["CacheShape", "LayerKind", "cache_shape", "layer_kinds"]

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"

_MOST_LAYERS = 100_000

_NO_ATTENTION = ("mlp", "moe")

# Names of one number, by the kind of model; the first that a configuration has is taken. The
# decoders of sequence-to-sequence models have the numbers of their encoders under other names.
_LAYERS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
_HEADS = ("decoder_attention_heads", "num_decoder_attention_heads", "num_attention_heads")
_HEAD_DIM = ("head_dim", "dim_head")

# Types whose configurations say something else than what the models keep.
_UNSAID = {
    "cpmant": "it keeps tokens of its own beside those of the text",
    "dory": "it runs some layers several times, and keeps keys and values of each time",
    "mimo_v2_flash": "its sliding layers have twice as many key-value heads as num_key_value_heads",
    "mllama_text_model": "its cross-attention layers keep tokens of images",
    "openai-gpt": "it keeps no keys and values",
    "reformer": "it keeps no keys and values",
    "xlm": "it keeps no keys and values",
    "xlnet": "it keeps no keys and values",
}


class LayerKind(NamedTuple):
    """What a layer keeps.

    Parameters
    ----------
    is_cached : bool
        False if the layer keeps nothing: it has no attention, or reads the tokens of another layer.
    window : int or None
        Tokens that each one attends to, with itself; None for all.
    """

    is_cached: bool
    window: int | None = None


class CacheShape(NamedTuple):
    """The arguments of a `kvpool.KVLayout`."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str


def layer_kinds(config: Any) -> list[LayerKind]:
    """Return what each layer of a model keeps.

    Parameters
    ----------
    config : object
        With ``num_hidden_layers``, and ``layer_types``, ``sliding_window`` or
        ``attention_chunk_size`` where not all layers attend to everything.

    Raises
    ------
    InvalidLayoutError
        A layer has a state that is not keys and values per token; the text names its type.
    """
    config = _text_config(config)
    if getattr(config, "is_encoder_decoder", False):
        raise InvalidLayoutError("an encoder-decoder model has two caches, not one")
    layers = _layer_configs(config)
    declared = getattr(config, "layer_types", None)
    types = [_type_by_window(layer) for layer in layers] if declared is None else list(declared)
    if len(types) != len(layers):
        raise InvalidLayoutError(f"layer_types names {len(types)} layers, not {len(layers)}")
    reusing = _reusing_layers(config, len(layers))
    return [
        LayerKind(is_cached=False)
        if index in reusing or types[index] in _NO_ATTENTION
        else _kind(index, types[index], layer)
        for index, layer in enumerate(layers)
    ]


def cache_shape(config: Any, dtype: Any = None) -> CacheShape:
    """Return what one token of the model's cache is made of.

    Parameters
    ----------
    config : object
        With ``num_hidden_layers`` and ``num_attention_heads``; ``num_key_value_heads`` where
        heads share keys and values; ``head_dim``, or ``hidden_size`` to divide by the heads.
    dtype : str, dtype or torch.dtype, optional
        By default the configuration's own.

    Raises
    ------
    InvalidLayoutError
        A value is missing or not supported; the text names it.
    """
    kinds = layer_kinds(config)
    for part in (config, _text_config(config)):
        _refuse_unsaid(getattr(part, "model_type", None))
    config = _text_config(config)
    layers = zip(kinds, _layer_configs(config), strict=True)
    shapes = list(dict.fromkeys(_heads(layer) for kind, layer in layers if kind.is_cached))
    if len(shapes) != 1:
        found = ", ".join(f"{heads} x {dim}" for heads, dim in shapes) or "none"
        raise InvalidLayoutError(f"all layers must have the same heads, these have {found}")
    return CacheShape(sum(kind.is_cached for kind in kinds), *shapes[0], _dtype(config, dtype))


def _refuse_unsaid(model_type: str | None) -> None:
    reason = _UNSAID.get(model_type or "")
    if reason is not None:
        raise InvalidLayoutError(
            f"the configuration of a model of the type {model_type!r} does not say what its cache "
            f"holds: {reason}"
        )


def _text_config(config: Any) -> Any:
    """Return the configuration of the language model inside a multimodal one."""
    inner = getattr(config, "text_config", None)
    return config if inner is None else inner


def _layer_configs(config: Any) -> list[Any]:
    """Return the configuration of each layer: the same one, unless layers differ."""
    count = _number(config, *_LAYERS)
    if count > _MOST_LAYERS:
        raise InvalidLayoutError(f"{count} layers are more than any model has")
    own = getattr(config, "per_layer_config", None)
    # Where an encoder has another number of layers than the decoder, `own` is the encoder's.
    return [config] * count if own is None or len(own) != count else list(own)


def _type_by_window(layer: Any) -> str:
    if getattr(layer, "sliding_window", None) is not None:
        return SLIDING
    return FULL if getattr(layer, "attention_chunk_size", None) is None else CHUNKED


def _kind(index: int, layer_type: str, layer: Any) -> LayerKind:
    if layer_type == FULL:
        return LayerKind(is_cached=True)
    if layer_type == SLIDING:
        return LayerKind(is_cached=True, window=_number(layer, "sliding_window"))
    if layer_type == CHUNKED:
        return LayerKind(is_cached=True, window=_number(layer, "attention_chunk_size"))
    raise InvalidLayoutError(
        f"layer {index} is of the type {layer_type!r}, whose state is not the keys and values of "
        f"each token; a layout takes {FULL}, {SLIDING} and {CHUNKED}"
    )


def _reusing_layers(config: Any, count: int) -> set[int]:
    """Return the layers that read the keys and values of an earlier one."""
    modes = getattr(config, "kv_sharing_modes", None) or ()
    last = getattr(config, "num_kv_shared_layers", None) or 0
    return {index for index, mode in enumerate(modes) if mode == "reuse"} | set(
        range(count - last, count)
    )


def _heads(layer: Any) -> tuple[int, int]:
    """Return the key-value heads of a layer and the elements of one; refuse unequal widths."""
    heads = _number(layer, *_HEADS)
    head_dim = _first(layer, *_HEAD_DIM) or _number(layer, "hidden_size") // heads
    for name in ("qk_head_dim", "v_head_dim"):  # as of multi-head latent attention
        width = getattr(layer, name, None)
        if width is not None and width != head_dim:
            raise InvalidLayoutError(
                f"{name} is {width}, head_dim is {head_dim}: "
                "the keys and values of a layout have one head_dim"
            )
    return _key_value_heads(layer, heads), head_dim


def _key_value_heads(layer: Any, heads: int) -> int:
    if getattr(layer, "new_decoder_architecture", False):
        return heads  # Falcon repeats its keys and values for all heads before it keeps them
    if getattr(layer, "multi_query", False):
        return 1
    shared: int | None = _first(layer, "num_key_value_heads")
    return heads if shared is None else shared


def _dtype(config: Any, dtype: Any) -> str:
    chosen = dtype
    for name in ("dtype", "torch_dtype"):
        if chosen is None:
            chosen = getattr(config, name, None)
    if chosen is None:
        raise InvalidLayoutError("the configuration names no dtype: say which")
    return str(chosen).removeprefix("torch.")


def _first(config: Any, *names: str) -> Any:
    """Return the first of some attributes that is there and not None; None if there is none."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _number(config: Any, *names: str) -> int:
    value = _first(config, *names)
    if not isinstance(value, int):
        raise InvalidLayoutError(f"the configuration has no number {names[-1]}: {value!r}")
    if value < 1:
        raise InvalidLayoutError(f"the configuration says {names[-1]} is {value}; at least 1")
    return value
