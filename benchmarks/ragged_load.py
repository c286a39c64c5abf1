"""The models and sessions that `benchmarks.ragged` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from kvpool.integrations.small_model import SMALL_MODEL, small_model_directory
from kvpool.integrations.transformers import (
    PooledBatch,
    PooledCache,
    model_layout,
    register_attention,
)
from kvpool.manager import KVCacheManager

__all__ = ["CASES", "QUICK", "Case", "Load"]

LONGEST = 2000
SHORTEST = 200
ROOM = 64  # tokens that a session has room for beyond those of its text
CHUNK = 250  # of a prompt that is read


@dataclass(frozen=True, slots=True)
class Case:
    """A model in one dtype; `layers` is 0 for the real one, and few for a narrow one."""

    layers: int
    dtype: str
    longest: int = LONGEST
    shortest: int = SHORTEST

    def __str__(self) -> str:
        made = f"{self.layers} {'layers, 215 M parameters' if self.is_wide else 'narrow layers'}"
        return f"{made if self.layers else SMALL_MODEL}, {self.dtype}"

    @property
    def is_wide(self) -> bool:
        """Whether the model has the size of a real one."""
        return self.layers > 2

    def lengths(self, sessions: int) -> list[int]:
        """Return how many tokens each session holds: from the shortest to the longest."""
        if sessions == 1:
            return [(self.shortest + self.longest) // 2]
        step = (self.longest - self.shortest) / (sessions - 1)
        return [round(self.shortest + step * index) for index in range(sessions)]

    def model(self) -> Any:
        """Return the model; every call makes the same one."""
        dtype = getattr(torch, self.dtype)
        if self.layers:
            torch.manual_seed(14)
            hidden = 1024 if self.is_wide else 64
            config = LlamaConfig(
                num_hidden_layers=self.layers,
                num_attention_heads=hidden // 64,
                num_key_value_heads=max(hidden // 256, 1),
                head_dim=64,
                hidden_size=hidden,
                intermediate_size=4 * hidden,
                vocab_size=32_000 if self.is_wide else 512,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                eos_token_id=None,
            )
            model: Any = LlamaForCausalLM(config).to(dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(small_model_directory(print), dtype=dtype)
        model.set_attn_implementation(register_attention())
        return model.eval()


CASES = tuple(Case(layers, dtype) for dtype in ("float32", "bfloat16") for layers in (0, 12))
QUICK = (Case(2, "float32", longest=40, shortest=10),)


class Load:
    """Sessions that hold the first tokens of one text, each another number of them.

    The text is read once; each session then has a copy of what it begins with, in the backend
    numpy, so that sessions share no memory.
    """

    def __init__(self, case: Case, sessions: int) -> None:
        self.case = case
        self.lengths = case.lengths(sessions)
        source = torch.Generator().manual_seed(sessions)
        self.model = case.model()
        words = self.model.get_input_embeddings().num_embeddings
        self.text: list[int] = torch.randint(
            3, words, (case.longest + 1,), generator=source
        ).tolist()
        room = case.longest + ROOM
        layout = model_layout(self.model)
        nbytes = (sessions + 1) * (layout.geometry(room).nbytes + 4096)
        self.manager = KVCacheManager(nbytes, "numpy", receipts=False)
        self._base = PooledCache.for_model(
            self.manager, self.model, "text", max_context_length=room
        )
        reader = PooledBatch([self._base])
        for start in range(0, case.longest, CHUNK):
            reader.step(self.model, [self.text[start : min(start + CHUNK, case.longest)]])
        self.caches = [self._part(index, length) for index, length in enumerate(self.lengths)]
        self.first = [self.text[length] for length in self.lengths]

    def _part(self, index: int, length: int) -> PooledCache:
        part = self._base.fork(f"session {index}")
        if length < self.case.longest:
            part.crop(length)
        return part

    def padded(self) -> tuple[Any, Any]:
        """Return a `DynamicCache` of all sessions, padded at the left, and its mask."""
        cache, longest = DynamicCache(config=self.model.config), max(self.lengths)
        for layer, held in enumerate(self._base.layers):
            keys, values = held.keys, held.values
            shape = (len(self.lengths), *keys.shape[1:2], longest, keys.shape[-1])
            rows = torch.zeros((2, *shape), dtype=keys.dtype)
            for row, length in enumerate(self.lengths):
                rows[0, row, :, longest - length :] = keys[0, :, :length]
                rows[1, row, :, longest - length :] = values[0, :, :length]
            cache.update(rows[0], rows[1], layer)
        starts = longest - torch.tensor(self.lengths)[:, None]
        return cache, (torch.arange(longest) >= starts).long()

    def reset(self) -> None:
        """Let every session hold what it held at the start."""
        for cache, length in zip(self.caches, self.lengths, strict=True):
            added = cache.get_seq_length() - length
            if added:
                cache.crop(-added)

    def close(self) -> None:
        """Give the memory back."""
        self.caches.clear()
        del self._base
        self.manager.close()


def likeliest(logits: Sequence[Any]) -> list[int]:
    """Return the likeliest token of each session."""
    return [int(one.argmax()) for one in logits]
