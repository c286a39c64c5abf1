"""Small models with random weights, and what the tests of caches compare."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Self

import torch
import transformers
from transformers import DynamicCache

from kvpool.integrations.transformers import (
    PooledBatch,
    PooledCache,
    cache_argument,
    model_layout,
    register_attention,
)

__all__ = [
    "DTYPES",
    "Computed",
    "DynamicCache",
    "PooledBatch",
    "PooledCache",
    "cache_argument",
    "converse",
    "forward",
    "given",
    "model",
    "model_layout",
    "register_attention",
    "same_cache",
    "states",
    "torch",
    "transformers",
    "words",
]

torch.set_num_threads(1)  # the models are so small that threads would only wait for each other

VOCABULARY = 101
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "heads of their own": ("Llama", {"num_key_value_heads": 4, "head_dim": 24}),
    "one head": ("Llama", {"num_key_value_heads": 1}),
    "sliding": ("Mistral", {"sliding_window": 8}),
    "some sliding": (
        "Gemma2",
        {
            "sliding_window": 8,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "attn_implementation": "eager",
        },
    ),
    # By default eager, but in transformers 5.19 "sdpa", which passes over the cap.
    "capped scores": ("Gemma2", {"sliding_window": 8, "head_dim": 8}),
    "chunks": (
        "Llama4Text",
        {
            "attention_chunk_size": 6,
            "head_dim": 8,
            "num_hidden_layers": 3,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
            "no_rope_layers": [1, 1, 0],
        },
    ),
}


@functools.cache
def model(kind: str = "llama", dtype: str = "float32", seed: int = 0) -> Any:
    """Return a model with random weights, for inference."""
    family, options = _KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**(_COMMON | options))
    name = f"{family.removesuffix('Text')}ForCausalLM"
    made = getattr(transformers, name)(config)
    return made.eval().to(DTYPES[dtype])


def words(count: int, rows: int = 1, seed: int = 0) -> Any:
    """Return random token ids of shape (rows, count); 0 and 1 are none of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (rows, count), generator=generator)


def given(of: Any, cache: Any) -> dict[str, Any]:
    """Return the argument that gives a model its cache, by the name that the release has."""
    return {cache_argument(of): cache}


def forward(of: Any, input_ids: Any, cache: Any, **options: Any) -> Any:
    """Return the logits of some tokens."""
    with torch.no_grad():
        return of(input_ids=input_ids, **given(of, cache), **options).logits


def converse(of: Any, cache: Any, turns: int = 3, answer: int = 6) -> Iterator[Any]:
    """Yield the logits of every step of a conversation; each turn is read, then answered."""
    for turn in range(turns):
        step = words(5 + 3 * turn, seed=turn)
        for _ in range(answer):
            logits = forward(of, step, cache)
            yield logits
            step = logits[:, -1:].argmax(-1)


def states(cache: Any) -> list[Any]:
    """Return the keys and values of all layers."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def same_cache(one: Any, other: Any) -> bool:
    """Tell whether two caches hold the same bits."""
    return all(
        torch.equal(mine, theirs) for mine, theirs in zip(states(one), states(other), strict=True)
    )


class Computed:
    """Counts the tokens that a model computes."""

    def __init__(self, counted: Any) -> None:
        self.tokens = 0
        self._hook = counted.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self.tokens += kwargs["input_ids"].shape[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._hook.remove()
