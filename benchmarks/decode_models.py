"""Models with random weights, and their caches, filled as by a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from benchmarks.decode_cases import DYNAMIC, POOLED, STATIC, Case, Shape
from kvpool.integrations.transformers import PooledCache, cache_argument, register_attention
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager

__all__ = ["THREADS", "Decoder", "fill", "make_cache", "make_model", "step_states"]

THREADS = 2
VOCABULARY = 1024


def make_model(case: Case) -> Any:
    """Return the model of a case; every call makes the same one."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(6)
    shape = case.shape
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        vocab_size=VOCABULARY,
        max_position_embeddings=1 << 16,
    )
    model: Any = LlamaForCausalLM(config).to(getattr(torch, case.dtype)).eval()
    register_attention()
    model.set_attn_implementation(case.attention)
    return model


def make_cache(name: str, model: Any, room: int, backend: str = "numpy") -> Any:
    """Return an empty cache for `room` tokens; a `PooledCache` has a pool of its own."""
    makers: dict[str, Callable[[], Any]] = {
        DYNAMIC: lambda: DynamicCache(config=model.config),
        STATIC: lambda: StaticCache(config=model.config, max_cache_len=room),
        POOLED: lambda: _pooled(model, room, backend),
    }
    return makers[name]()


def _pooled(model: Any, room: int, backend: str) -> Any:
    layout = KVLayout.from_config(model.config, model.dtype)
    manager = KVCacheManager(layout.geometry(room).nbytes, backend, layout, receipts=False)
    return PooledCache.for_model(manager, model, "bench", max_context_length=room)


def fill(caches: list[Any], case: Case, tokens: int, chunk: int | None = None) -> None:
    """Give the same random keys and values to caches, as a prompt would: at once or in chunks."""
    source = torch.Generator().manual_seed(tokens)
    step = chunk or tokens
    for start in range(0, tokens, step):
        for layer in range(case.shape.layers):
            states = step_states(case.shape, case.dtype, min(step, tokens - start), source)
            for cache in caches:
                cache.update(*states, layer)


def step_states(shape: Shape, dtype: str, count: int, source: Any = None) -> tuple[Any, Any]:
    """Return random keys and values of one layer."""
    size = (2, 1, shape.kv_heads, count, shape.head_dim)
    keys, values = torch.randn(size, generator=source).to(getattr(torch, dtype))
    return keys, values


class Decoder:
    """Decodes with one cache, always the same tokens."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.logits: Any = None
        self._model = model
        self._given = {cache_argument(model): cache}
        self._token = 0

    def decode(self, count: int) -> None:
        """Decode that number of tokens, and keep the logits of the last one."""
        for _ in range(count):
            self._token = (self._token + 1) % VOCABULARY
            token = torch.tensor([[self._token]])
            output = self._model(token, use_cache=True, **self._given)
            self.logits = output.logits
